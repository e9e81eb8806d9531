//! Resources out of files, and where in them each stood: errors point there.
use crate::error::CliError;
use penstock_admin_client::Refusal;
use penstock_admin_types::{ResourcePath, value};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The resources of several files, and where each stood.
#[derive(Debug, Default)]
pub(crate) struct Declaration {
    pub(crate) resources: Vec<Value>,
    /// File and JSON pointer of each resource.
    places: Vec<(String, String)>,
}

impl Declaration {
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self, CliError> {
        let mut all = Self::default();
        for file in files {
            if file.is_dir() {
                for entry in files_in(file)? {
                    all.read_file(&entry)?;
                }
            } else if file.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(CliError::io("standard input"))?;
                all.add_text("standard input", &text)?;
            } else {
                all.read_file(file)?;
            }
        }
        Ok(all)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), CliError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(CliError::io(&name))?;
        self.add_text(&name, &text)
    }

    fn add_text(&mut self, file: &str, text: &str) -> Result<(), CliError> {
        for document in documents(file, text)? {
            self.add(file, document);
        }
        Ok(())
    }

    /// `{"resources": [...]}`, `{"value": [...]}` as a list answers, an array, or one resource.
    fn add(&mut self, file: &str, mut document: Value) {
        for list in ["resources", "value"] {
            if let Some(Value::Array(items)) = document.get_mut(list).map(Value::take) {
                return self.add_all(file, &format!("/{list}"), items);
            }
        }
        match document {
            Value::Array(items) => self.add_all(file, "", items),
            one => self.add_one(file, String::new(), one),
        }
    }

    fn add_all(&mut self, file: &str, base: &str, items: Vec<Value>) {
        for (index, item) in items.into_iter().enumerate() {
            self.add_one(file, format!("{base}/{index}"), item);
        }
    }

    fn add_one(&mut self, file: &str, pointer: String, resource: Value) {
        self.resources.push(resource);
        self.places.push((file.to_owned(), pointer));
    }

    /// The paths of the resources.
    pub(crate) fn paths(&self) -> Result<Vec<String>, CliError> {
        let path = |(resource, (file, at)): (&Value, &(String, String))| {
            let named = value::get_text(resource, "resourceRef").or_else(|| {
                Some(format!("{}/{}", value::get_text(resource, "kind")?, value::get_text(resource, "resourceId")?))
            });
            let path = named.and_then(|n| ResourcePath::parse(&n).ok());
            path.map(|p| p.to_string()).ok_or_else(|| CliError::UnknownName {
                name: format!("{file}#{at}"),
                hint: "a resource has a resourceRef, or a kind and a resourceId".to_owned(),
            })
        };
        self.resources.iter().zip(&self.places).map(path).collect()
    }

    /// Turns pointers into the batch into file and pointer there. With one file the name is left out: it is known.
    pub(crate) fn locate(&self, mut refusal: Refusal) -> Refusal {
        let several = self.places.iter().any(|(file, _)| Some(file) != self.places.first().map(|(f, _)| f));
        for detail in &mut refusal.error.details {
            let Some((index, rest)) = batch_pointer(&detail.target) else { continue };
            let Some((file, pointer)) = self.places.get(index) else { continue };
            detail.target = if several { format!("{file}#{pointer}{rest}") } else { format!("{pointer}{rest}") };
        }
        refusal
    }
}

/// JSON is what begins like JSON; else YAML, of one document or several.
pub(crate) fn documents(file: &str, text: &str) -> Result<Vec<Value>, CliError> {
    if text.trim_start().starts_with(['{', '[']) {
        let document = serde_json::from_str(text).map_err(|error| CliError::Json { what: file.to_owned(), error })?;
        return Ok(vec![document]);
    }
    serde_saphyr::from_multiple(text)
        .map_err(|error| CliError::Yaml { what: file.to_owned(), reason: error.to_string() })
}

/// `/resources/3/properties/x` -> 3 and `/properties/x`.
fn batch_pointer(pointer: &str) -> Option<(usize, &str)> {
    let rest = pointer.strip_prefix("/resources/")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (index, tail) = rest.split_at_checked(end)?;
    Some((index.parse().ok()?, tail))
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let name = directory.display().to_string();
    let entries = std::fs::read_dir(directory).map_err(CliError::io(&name))?;
    let mut files =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(CliError::io(&name))?;
    files.retain(|f| f.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml"));
    files.sort();
    if files.is_empty() { Err(CliError::NothingToApply(name)) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_admin_types::{ErrorBody, ErrorDetail};
    use serde_json::json;

    fn declared(documents: &[(&str, Value)]) -> Declaration {
        let mut all = Declaration::default();
        for (file, document) in documents {
            all.add(file, document.clone());
        }
        all
    }

    fn refusal(target: &str) -> Refusal {
        let detail = ErrorDetail::new("X", "m", target);
        Refusal { status: 400, error: ErrorBody::from_details(vec![detail]) }
    }

    fn located(all: &Declaration, target: &str) -> String {
        all.locate(refusal(target)).error.details[0].target.clone()
    }

    #[test]
    fn every_form_of_a_file_is_read() {
        let one = json!({"resourceRef": "/servers/a"});
        for document in
            [one.clone(), json!([one]), json!({"resources": [one]}), json!({"value": [one], "nextLink": ""})]
        {
            assert_eq!(declared(&[("f", document)]).resources, std::slice::from_ref(&one));
        }
    }

    #[test]
    fn errors_point_into_the_file_that_was_given() {
        let one = json!({"resourceRef": "/servers/a"});
        let all = declared(&[("list.json", json!({"resources": [one, one]}))]);
        assert_eq!(located(&all, "/resources/1/properties/x"), "/resources/1/properties/x");
        let all = declared(&[("one.json", one.clone())]);
        assert_eq!(located(&all, "/resources/0/properties/x"), "/properties/x");
        let all = declared(&[("a.json", json!([one, one])), ("b.json", one)]);
        assert_eq!(located(&all, "/resources/2/properties/x"), "b.json#/properties/x");
        assert_eq!(located(&all, "/resources/1"), "a.json#/1");
        assert_eq!(located(&all, "/resources/9/x"), "/resources/9/x");
    }

    #[test]
    fn a_directory_without_json_is_an_error() {
        let dir = std::env::temp_dir().join(format!("pst-apply-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(matches!(Declaration::read(std::slice::from_ref(&dir)), Err(CliError::NothingToApply(_))));
        for (name, id) in [("2.json", "b"), ("1.json", "a"), ("note.txt", "c")] {
            std::fs::write(dir.join(name), format!("{{\"resourceRef\": \"/servers/{id}\"}}")).unwrap();
        }
        let all = Declaration::read(std::slice::from_ref(&dir)).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(all.resources.iter().filter_map(value::reference).collect::<Vec<_>>(), ["/servers/a", "/servers/b"]);
    }

    #[test]
    fn yaml_is_read_like_json() {
        let yaml = "resourceRef: /servers/a\nproperties:\n  underlayAddress: 10.0.0.1\n  port: \"80\"\n---\nresourceRef: /servers/b\n";
        let read = documents("f.yaml", yaml).unwrap();
        assert_eq!(
            read[0],
            json!({"resourceRef": "/servers/a", "properties": {"underlayAddress": "10.0.0.1", "port": "80"}})
        );
        assert_eq!(read[1], json!({"resourceRef": "/servers/b"}));
        let error = documents("f.yaml", "a: [1\nb: 2\n").unwrap_err().to_string();
        assert!(error.starts_with("f.yaml: ") && error.contains("line"), "{error}");
    }
}
