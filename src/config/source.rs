//! Sources: the file and the environment, brought to one value for each key, with everything that is wrong on the way.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::KEYS;
use super::define::{Key, PREFIX};
use super::problem::{Origin, Problem};
use super::value::{Raw, Rule, Setting};

/// Variables with our prefix that are no setting: the command line reads them.
const COMMAND_LINE: &[&str] = &["SEALWRIGHT_CONFIG", "SEALWRIGHT_CLIENT_ID", "SEALWRIGHT_CLIENT_SECRET"];

/// Where each key that somebody set came from.
pub(super) type Origins = BTreeMap<&'static str, Origin>;

/// What the sources say. A later source replaces what an earlier one said about the same key.
#[derive(Default)]
pub(super) struct Sources {
    given: BTreeMap<&'static str, Raw>,
    pub origins: Origins,
    pub problems: Vec<Problem>,
}

impl Sources {
    /// The value of `name`, or its default; problems are noted, so that one reading finds all of them.
    pub fn read<T: Setting + 'static>(&mut self, name: &'static str, default: T, rule: &Rule<T>) -> T {
        let Some(raw) = self.given.get(name) else { return default };
        match T::read(raw).and_then(|value| rule.check(&value).map(|()| value)) {
            Ok(value) => value,
            Err(mut text) => {
                if !rule.allowed.is_empty() {
                    text = format!("{text}; allowed: {}", rule.allowed);
                }
                let origin = self.origins.get(name).cloned().unwrap_or(Origin::Default);
                self.problems.push(Problem { key: name.to_owned(), origin, text });
                default
            }
        }
    }

    /// Takes the TOML file at `path`.
    pub fn file(&mut self, path: &Path) {
        // It may hold secrets, and is read in one piece: its size is known.
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) => {
                let text = format!("cannot read the configuration file {}: {error}", path.display());
                return self.refuse("", Origin::Default, text);
            }
        };
        let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let origin = |at: usize| Origin::File { path: path.to_owned(), line: line(at) };
        let (table, mut errors) = DeTable::parse_recoverable(&text);
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        for error in &errors {
            // Only the message: the error's own Display quotes the line, which may hold a password.
            self.refuse(
                "",
                origin(error.span().map_or(0, |span| span.start)),
                format!("not TOML: {}", error.message()),
            );
        }
        if errors.is_empty() {
            self.top(table.get_ref(), &origin);
        }
    }

    fn top(&mut self, table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) {
        for (name, value) in table {
            let at = origin(name.span().start);
            let name: &str = name.get_ref();
            if Key::sections().any(|section| section == name) {
                match value.get_ref() {
                    DeValue::Table(section) => self.section(name, section, origin),
                    _ => self.refuse(name, at, format!("is a section; write [{name}] and its keys under it")),
                }
            } else if let Some(key) = Key::find(name) {
                self.put(key, raw(value), at);
            } else {
                let known = Key::sections().chain(KEYS.iter().map(|key| key.name));
                self.refuse(name, at, format!("there is no such section or key{}", did_you_mean(name, known)));
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) {
        let names: HashSet<&str> = table.keys().map(|name| -> &str { name.get_ref() }).collect();
        for (field, value) in table {
            let at = origin(field.span().start);
            let field: &str = field.get_ref();
            let name = format!("{section}.{field}");
            if let Some(key) = Key::find(&name) {
                self.put(key, raw(value), at);
            } else if let Some(key) = name.strip_suffix("_file").and_then(Key::find).filter(|key| key.secret) {
                if field.strip_suffix("_file").is_some_and(|direct| names.contains(direct)) {
                    self.refuse(key.name, at, format!("is given twice, also by {name}; keep one of the two"));
                } else {
                    match value.get_ref() {
                        DeValue::String(path) => self.put_file(key, path, at),
                        _ => self.refuse(&name, at, "must be the path of a file that holds the value".to_owned()),
                    }
                }
            } else {
                let known = KEYS.iter().map(|key| key.name);
                self.refuse(&name, at, format!("there is no such key{}", did_you_mean(&name, known)));
            }
        }
    }

    /// Takes the variables with our prefix; others are not ours.
    pub fn environment(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        // Sorted, so that the same mistakes are told in the same order.
        let ours = env.into_iter().filter(|(name, _)| name.starts_with(PREFIX));
        let ours: BTreeMap<_, _> = ours.map(|(name, value)| (name, Zeroizing::new(value))).collect();
        for (name, value) in &ours {
            let at = Origin::Variable(name.clone());
            if let Some(key) = KEYS.iter().find(|key| key.env() == *name) {
                self.put(key, Raw::Variable(value.to_string()), at);
            } else if let Some((direct, key)) = secret_file_variable(name) {
                if ours.contains_key(direct) {
                    self.refuse(key.name, at, format!("is given twice, also by {direct}; keep one of the two"));
                } else {
                    self.put_file(key, value, at);
                }
            } else if !COMMAND_LINE.contains(&name.as_str()) && !is_service_link(name, value) {
                let known: Vec<String> = KEYS.iter().map(Key::env).collect();
                let hint = did_you_mean(name, known.iter().map(String::as_str));
                self.refuse("", at, format!("there is no setting of this name{hint}"));
            }
        }
    }

    fn put(&mut self, key: &'static Key, raw: Raw, origin: Origin) {
        self.given.insert(key.name, raw);
        self.origins.insert(key.name, origin);
    }

    fn put_file(&mut self, key: &'static Key, path: &str, origin: Origin) {
        match std::fs::read_to_string(path) {
            Ok(mut text) => {
                // Editors and `echo` end a file with one newline that is not part of the secret.
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                let origin = Origin::SecretFile { path: path.into(), named_by: Box::new(origin) };
                self.put(key, Raw::Text(text), origin);
            }
            Err(error) => self.refuse(key.name, origin, format!("cannot read the file {path:?}: {error}")),
        }
    }

    fn refuse(&mut self, key: &str, origin: Origin, text: String) {
        self.problems.push(Problem { key: key.to_owned(), origin, text });
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("an integer of more than 64 bits"), Raw::Integer),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Array(items) => Raw::List(items.iter().map(raw).collect()),
        DeValue::Float(_) => Raw::Other("a floating-point number"),
        DeValue::Datetime(_) => Raw::Other("a date or time"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

/// The direct variable and the key of a `…_FILE` variable.
fn secret_file_variable(name: &str) -> Option<(&str, &'static Key)> {
    let direct = name.strip_suffix("_FILE")?;
    KEYS.iter().find(|key| key.secret && key.env() == direct).map(|key| (direct, key))
}

/// Kubernetes sets `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT…` and `NAME_PORT…` for every service of a namespace; a
/// service that is called `sealwright` or `sealwright-…` must not keep us from starting.
fn is_service_link(name: &str, value: &str) -> bool {
    let port = name.rsplit_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT")
            || port
            || (name.ends_with("_PORT") && value.contains("://")))
}

fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.map(|known| (distance(word, known), known)).min();
    nearest.filter(|(far, _)| *far <= 2).map_or_else(String::new, |(_, known)| format!("; did you mean {known}?"))
}

/// Levenshtein's distance: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}
