use crate::Source;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};
use toml::{Table, Value};

/// All crates of the workspace with their manifests and sources.
#[derive(Debug)]
pub struct Workspace {
    pub root: PathBuf,
    pub crates: Vec<Crate>,
    /// Folder of each crate by its package name.
    pub folders: BTreeMap<String, String>,
}

/// One member of the workspace.
#[derive(Debug)]
pub struct Crate {
    /// Relative to the root, as `forward/model`.
    pub folder: String,
    pub name: String,
    pub manifest: Table,
    /// All `.rs` files of the crate, paths relative to the root.
    pub sources: Vec<Source>,
}

impl Workspace {
    /// Reads the workspace that this crate belongs to.
    ///
    /// # Errors
    /// A manifest or source that cannot be read.
    pub fn read() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let manifest = parse(&root.join("Cargo.toml"))?;
        let members = manifest.get("workspace").and_then(|w| w.get("members")).and_then(Value::as_array);
        let mut crates = Vec::new();
        for member in members.into_iter().flatten().filter_map(Value::as_str) {
            crates.push(Crate::read(&root, member)?);
        }
        let folders = crates.iter().map(|c| (c.name.clone(), c.folder.clone())).collect();
        Ok(Self { root, crates, folders })
    }

    /// All sources of all crates.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.crates.iter().flat_map(|c| &c.sources)
    }
}

impl Crate {
    fn read(root: &Path, folder: &str) -> io::Result<Self> {
        let manifest = parse(&root.join(folder).join("Cargo.toml"))?;
        let name = manifest.get("package").and_then(|p| p.get("name")).and_then(Value::as_str).unwrap_or_default();
        let mut paths = Vec::new();
        walk(&root.join(folder), &mut paths)?;
        paths.sort();
        let mut sources = Vec::new();
        for path in paths {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            sources.push(Source::new(relative, fs::read_to_string(&path)?));
        }
        Source::mark_test_modules(&mut sources);
        Ok(Self { folder: folder.to_owned(), name: name.to_owned(), manifest, sources })
    }

    /// The file that opens the crate.
    #[must_use]
    pub fn door(&self) -> Option<&Source> {
        let at = |file: &str| self.sources.iter().find(|s| s.path == format!("{}/src/{file}", self.folder));
        at("lib.rs").or_else(|| at("main.rs"))
    }

    /// Dependencies: name, whether they are only for tests, and how they are written.
    pub fn dependencies(&self) -> impl Iterator<Item = (&str, bool, &Value)> {
        let target = self.manifest.get("target").and_then(Value::as_table);
        let targets = target.into_iter().flat_map(Table::values).filter_map(Value::as_table);
        std::iter::once(&self.manifest).chain(targets).flat_map(|table| {
            ["dependencies", "build-dependencies", "dev-dependencies"].into_iter().flat_map(move |kind| {
                let list = table.get(kind).and_then(Value::as_table);
                list.into_iter().flatten().map(move |(name, how)| (name.as_str(), kind == "dev-dependencies", how))
            })
        })
    }
}

fn parse(path: &Path) -> io::Result<Table> {
    let text = fs::read_to_string(path)?;
    text.parse().map_err(|e| io::Error::other(format!("{}: {e}", path.display())))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
