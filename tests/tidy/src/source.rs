use std::collections::BTreeSet;

/// One Rust file, with comments and literals blanked out so that words in them do not count.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root of the workspace.
    pub path: String,
    pub text: String,
    /// The same lines; comments, strings and characters are spaces.
    code: Vec<String>,
    /// Lines inside `#[cfg(test)]` items.
    test_lines: BTreeSet<usize>,
    /// The whole file is only for tests.
    pub is_test: bool,
}

impl Source {
    #[must_use]
    pub fn new(path: String, text: String) -> Self {
        let blanked = blank(&text);
        let code: Vec<String> = blanked.lines().map(str::to_owned).collect();
        let test_lines = test_lines(&code);
        let is_test = path.split('/').any(|part| part == "tests" || part == "benches" || part == "examples");
        Self { path, text, code, test_lines, is_test }
    }

    /// Marks files whose `mod` line stands under `#[cfg(test)]` in another file.
    pub fn mark_test_modules(sources: &mut [Source]) {
        let mut modules = BTreeSet::new();
        for source in sources.iter() {
            let folder = source.folder_of_children();
            for line in &source.test_lines {
                if let Some(name) = source.code.get(*line).and_then(|l| module_name(l)) {
                    modules.insert(format!("{folder}/{name}.rs"));
                    modules.insert(format!("{folder}/{name}/mod.rs"));
                }
            }
        }
        for source in sources {
            source.is_test |= modules.contains(&source.path);
        }
    }

    fn folder_of_children(&self) -> String {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        match file {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            other => format!("{folder}/{}", other.trim_end_matches(".rs")),
        }
    }

    /// Lines of code that ship: number from 1, text without comments and literals.
    pub fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().enumerate();
        let shipped = lines.filter(|(n, _)| !self.is_test && !self.test_lines.contains(n));
        shipped.map(|(n, line)| (n + 1, line.as_str()))
    }

    /// Places where shipped code contains one of `words`, as `path:line: word`.
    pub fn uses<'a>(&'a self, words: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
        self.shipped().flat_map(move |(n, line)| {
            words.iter().filter(move |w| contains_word(line, w)).map(move |w| format!("{}:{n}: {w}", self.path))
        })
    }

    /// Lines without test modules.
    #[must_use]
    pub fn length(&self) -> usize {
        self.shipped().count()
    }

    /// The `//!` lines at the top, joined.
    #[must_use]
    pub fn door_plate(&self) -> String {
        let plate = self.text.lines().take_while(|line| line.starts_with("//!"));
        plate.map(|line| line.trim_start_matches("//!").trim()).collect::<Vec<_>>().join("\n")
    }
}

/// Whether `word` stands in `line` and is no part of a longer word.
fn contains_word(line: &str, word: &str) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|s| s.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|s| s.chars().next());
        !before.is_some_and(letter) && !after.is_some_and(letter)
    })
}

fn module_name(line: &str) -> Option<&str> {
    let line = line.trim();
    let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
    line.strip_prefix("mod ")?.strip_suffix(';')
}

/// Lines of items under `#[cfg(test)]`, by counting braces.
fn test_lines(code: &[String]) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    let mut n = 0;
    while let Some(line) = code.get(n) {
        let attribute = line.trim_start();
        let for_tests = ["#[cfg(test)]", "#[cfg(all(test"].iter().any(|a| attribute.starts_with(a));
        if !for_tests {
            n += 1;
            continue;
        }
        let mut depth = 0i32;
        let mut opened = false;
        while let Some(line) = code.get(n) {
            lines.insert(n);
            n += 1;
            depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
            opened |= line.contains('{');
            let statement = line.trim_end().ends_with(';');
            if (opened && depth <= 0) || (!opened && statement) {
                break;
            }
        }
    }
    lines
}

/// Replaces comments and literals by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        let end = match (*c, chars.get(at + 1)) {
            ('/', Some('/')) => line_comment(&chars, at),
            ('/', Some('*')) => block_comment(&chars, at),
            ('"', _) => string(&chars, at),
            ('r', Some('"' | '#')) if !follows_word(&chars, at) => raw_string(&chars, at),
            ('\'', _) => character(&chars, at),
            _ => at,
        };
        if end == at {
            out.push(*c);
            at += 1;
        } else {
            let literal = chars.get(at..end).unwrap_or(&[]);
            out.extend(literal.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end.min(chars.len());
        }
    }
    out
}

fn follows_word(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|i| chars.get(i));
    before.is_some_and(|c| c.is_alphanumeric() && *c != 'b' && *c != 'c' || *c == '_')
}

fn line_comment(chars: &[char], at: usize) -> usize {
    let rest = chars.get(at..).unwrap_or(&[]);
    at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i < chars.len() {
        match (chars.get(i), chars.get(i + 1)) {
            (Some('/'), Some('*')) => (depth, i) = (depth + 1, i + 2),
            (Some('*'), Some('/')) => {
                (depth, i) = (depth - 1, i + 2);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}

fn string(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while let Some(c) = chars.get(i) {
        match c {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

/// `r"..."`, `r#"..."#`; a raw identifier (`r#type`) is none.
fn raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars.get(at + 1..).unwrap_or(&[]).iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let mut i = at + 2 + hashes;
    while i < chars.len() {
        let closes = chars.get(i) == Some(&'"')
            && chars.get(i + 1..i + 1 + hashes).is_some_and(|tail| tail.iter().all(|c| *c == '#'));
        if closes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

/// A character literal; a lifetime is none.
fn character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let rest = chars.get(at + 3..).unwrap_or(&[]);
            at + 4 + rest.iter().position(|c| *c == '\'').unwrap_or(rest.len())
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("a/src/x.rs".into(), text.into())
    }

    #[test]
    fn words_in_comments_strings_and_tests_do_not_count() {
        let text = "// Instant::now\nlet a = \"Instant::now\"; let b = r#\"Instant::now\"#; let c = '\"';\n\
                    /* Instant::now /* */ Instant::now */ fn f<'a>(x: &'a u8) {}\n\
                    #[cfg(test)]\nmod tests {\n    fn g() { Instant::now(); }\n}\nfn h() { Instant::now(); }\n";
        let uses: Vec<String> = source(text).uses(&["Instant::now"]).collect();
        assert_eq!(uses, ["a/src/x.rs:8: Instant::now"]);
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert!(contains_word("std::time::Instant::now()", "Instant::now"));
        assert!(!contains_word("MyInstant::now()", "Instant::now"));
        assert!(!contains_word("Instant::nowhere()", "Instant::now"));
    }

    #[test]
    fn a_file_that_a_test_module_names_is_a_test() {
        let mut sources = vec![
            Source::new("a/src/lib.rs".into(), "#[cfg(test)]\nmod twin;\nmod fast;\n".into()),
            Source::new("a/src/twin.rs".into(), "fn f() {}\n".into()),
            Source::new("a/src/fast.rs".into(), "fn f() {}\n".into()),
        ];
        Source::mark_test_modules(&mut sources);
        assert_eq!(sources.iter().map(|s| s.is_test).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn test_modules_do_not_count_as_length() {
        assert_eq!(source("fn f() {\n}\n#[cfg(test)]\nmod tests {\n\n}\n").length(), 2);
    }
}
