//! What a command says: results on stdout, talk on stderr, and how it ends.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::log::{printable, printable_json};

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failure {
    /// What is told on stderr, each line by itself; empty when all is said already.
    text: String,
    status: u8,
}

impl Failure {
    /// It failed: exit status 1. `text` says what, and how to mend it.
    pub fn failed(text: impl Display) -> Self {
        Self { text: text.to_string(), status: 1 }
    }

    /// It was used wrongly: exit status 2. `text` says how to use it.
    pub fn usage(text: impl Display) -> Self {
        Self { text: text.to_string(), status: 2 }
    }

    /// Says why, and gives the exit status.
    pub fn tell(&self) -> ExitCode {
        self.text.lines().for_each(|line| say(format_args!("error: {line}")));
        ExitCode::from(self.status)
    }
}

/// Whatever a command does not treat itself is a failure that says itself.
impl<E: std::error::Error> From<E> for Failure {
    fn from(cause: E) -> Self {
        Self::failed(cause)
    }
}

/// Talks: one line on stderr. When nobody listens, that is no reason to stop.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{}", printable(&line.to_string()));
}

/// Gives a result: lines on stdout.
pub fn give(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|cause| match cause.kind() {
        // `| head` has had enough.
        io::ErrorKind::BrokenPipe => Failure::failed(""),
        _ => Failure::failed(format!("the result cannot be written to stdout: {cause}")),
    })
}

/// Gives a result as JSON, for people and scripts alike.
pub fn give_json(value: &impl Serialize) -> Result<(), Failure> {
    give(json(value)?)
}

/// `value` as indented JSON that is safe on a terminal, wherever its texts come from.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)?;
    // serde_json escapes what is below U+0020 in strings; the line breaks that are left are the indentation's.
    Ok(text.split('\n').map(printable_json).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t175_json_of_others_does_not_reach_the_terminal_raw() {
        let text = json(&serde_json::json!({ "scope": "a\u{1b}[31m\u{9b}2J\n\u{202e}" })).unwrap();
        assert_eq!(text.lines().count(), 3);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["scope"], "a\u{1b}[31m\u{9b}2J\n\u{202e}");
        assert!(!text.replace('\n', "").chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
}
