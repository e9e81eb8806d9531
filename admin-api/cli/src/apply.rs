use crate::error::CliError;
use crate::output::{Output, Style};
use penstock_admin_client::{Client, ClientError, Refusal};
use penstock_admin_types::value;
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Sends everything in one atomic batch.
pub(crate) async fn run(client: &Client, files: &[PathBuf], output: &Output) -> Result<(), CliError> {
    let declaration = Declaration::read(files)?;
    let answer = match client.batch(&declaration.resources).await {
        Ok(answer) => answer,
        Err(ClientError::Refused(refusal)) => return Err(CliError::Refused(Box::new(declaration.locate(*refusal)))),
        Err(error) => return Err(error.into()),
    };
    if output.is_json() {
        return output.value(&if answer.is_null() { json!({}) } else { answer });
    }
    output.text(&render(&answer, output))
}

/// What became of each resource; those that were so already are only counted.
fn render(answer: &Value, output: &Output) -> String {
    let outcomes = value::list(answer, "outcomes").iter().map(|o| o.as_str().unwrap_or_default());
    let (mut text, mut unchanged) = (String::new(), 0);
    for (resource, outcome) in value::list(answer, "value").iter().zip(outcomes) {
        match outcome {
            "unchanged" | "absent" => unchanged += 1,
            outcome => {
                let name = value::reference(resource).unwrap_or("?");
                let _ = writeln!(text, "{} {name}", output.paint(Style::Good, &format!("{outcome:>9}")));
            }
        }
    }
    if unchanged > 0 {
        let _ = writeln!(text, "{unchanged:>9} were so already");
    }
    text
}

/// The resources of several files, and where each stood.
#[derive(Debug, Default)]
struct Declaration {
    resources: Vec<Value>,
    /// File and JSON pointer of each resource.
    places: Vec<(String, String)>,
}

impl Declaration {
    fn read(files: &[PathBuf]) -> Result<Self, CliError> {
        let mut all = Self::default();
        for file in files {
            if file.is_dir() {
                for entry in json_files(file)? {
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
        let document = serde_json::from_str(text).map_err(|error| CliError::Json { what: file.to_owned(), error })?;
        self.add(file, document);
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

    /// Turns pointers into the batch into file and pointer there. With one file the name is left out: it is known.
    fn locate(&self, mut refusal: Refusal) -> Refusal {
        let several = self.places.iter().any(|(file, _)| Some(file) != self.places.first().map(|(f, _)| f));
        for detail in &mut refusal.error.details {
            let Some((index, rest)) = batch_pointer(&detail.target) else { continue };
            let Some((file, pointer)) = self.places.get(index) else { continue };
            detail.target = if several { format!("{file}#{pointer}{rest}") } else { format!("{pointer}{rest}") };
        }
        refusal
    }
}

/// `/resources/3/properties/x` -> 3 and `/properties/x`.
fn batch_pointer(pointer: &str) -> Option<(usize, &str)> {
    let rest = pointer.strip_prefix("/resources/")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (index, tail) = rest.split_at_checked(end)?;
    Some((index.parse().ok()?, tail))
}

fn json_files(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let name = directory.display().to_string();
    let entries = std::fs::read_dir(directory).map_err(CliError::io(&name))?;
    let mut files =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(CliError::io(&name))?;
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    if files.is_empty() { Err(CliError::NothingToApply(name)) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_admin_types::{ErrorBody, ErrorDetail};

    fn declared(documents: &[(&str, Value)]) -> Declaration {
        let mut all = Declaration::default();
        for (file, document) in documents {
            all.add(file, document.clone());
        }
        all
    }

    fn refusal(target: &str) -> Refusal {
        let detail = ErrorDetail { code: "X".into(), message: "m".into(), target: target.into() };
        Refusal { status: 400, error: ErrorBody::from_details(vec![detail]) }
    }

    fn located(all: &Declaration, target: &str) -> String {
        all.locate(refusal(target)).error.details[0].target.clone()
    }

    #[test]
    fn what_changed_is_listed_and_what_did_not_is_counted() {
        let answer = json!({"value": [{"resourceRef": "/servers/a"}, {"resourceRef": "/servers/b"}],
            "outcomes": ["created", "unchanged"]});
        assert_eq!(render(&answer, &Output::plain()), "  created /servers/a\n        1 were so already\n");
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
}
