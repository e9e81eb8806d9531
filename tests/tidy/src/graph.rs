use serde_json::Value;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What each crate is built from, to the last dependency, as cargo resolves it.
#[derive(Debug)]
pub struct Graph {
    /// Package name by id.
    names: BTreeMap<String, String>,
    /// Ids of what is linked into a package: no build scripts, no tests.
    links: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
pub enum GraphError {
    Start(std::io::Error),
    Failed(String),
    Shape(&'static str),
}

impl std::fmt::Display for GraphError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start(e) => write!(f, "cargo does not start: {e}"),
            Self::Failed(text) => write!(f, "cargo metadata: {text}"),
            Self::Shape(what) => write!(f, "cargo metadata without {what}"),
        }
    }
}

impl std::error::Error for GraphError {}

impl Graph {
    /// Asks cargo, without the network.
    ///
    /// # Errors
    /// Cargo is not there, or refuses, or answers in another form.
    pub fn read(root: &Path) -> Result<Self, GraphError> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(root)
            .output()
            .map_err(GraphError::Start)?;
        if !output.status.success() {
            return Err(GraphError::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| GraphError::Failed(e.to_string()))?;
        Self::parse(&metadata)
    }

    fn parse(metadata: &Value) -> Result<Self, GraphError> {
        let array = |value: &Value, what| value.as_array().cloned().ok_or(GraphError::Shape(what));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut graph = Self { names: BTreeMap::new(), links: BTreeMap::new() };
        let mut macros = BTreeSet::new();
        for package in array(&metadata["packages"], "packages")? {
            let id = text(&package["id"]);
            let kinds = |t: &Value| t["kind"].as_array().is_some_and(|k| k.iter().any(|k| k == "proc-macro"));
            if package["targets"].as_array().is_some_and(|targets| targets.iter().any(kinds)) {
                macros.insert(id.clone());
            }
            graph.names.insert(id, text(&package["name"]));
        }
        for node in array(&metadata["resolve"]["nodes"], "resolve.nodes")? {
            let linked = |dep: &&Value| {
                dep["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
            };
            let deps = array(&node["deps"], "deps")?;
            // What a macro is built from runs in the compiler and is not in the product.
            let ids = deps.iter().filter(linked).map(|d| text(&d["pkg"])).filter(|id| !macros.contains(id));
            graph.links.insert(text(&node["id"]), ids.collect());
        }
        Ok(graph)
    }

    /// For each package that is linked into `name`: the way to it, as `a > b > c`.
    #[must_use]
    pub fn linked_into(&self, name: &str) -> BTreeMap<String, String> {
        let mut ways = BTreeMap::new();
        let Some((start, _)) = self.names.iter().find(|(_, n)| *n == name) else { return ways };
        let mut queue = vec![(start.clone(), name.to_owned())];
        while let Some((id, way)) = queue.pop() {
            for next in self.links.get(&id).into_iter().flatten() {
                let next_name = self.names.get(next).cloned().unwrap_or_default();
                let longer = format!("{way} > {next_name}");
                if let Entry::Vacant(place) = ways.entry(next_name) {
                    place.insert(longer.clone());
                    queue.push((next.clone(), longer));
                }
            }
        }
        ways
    }
}
