//! The log: one line on stderr for each event, as JSON or as text for people.
//!
//! Secrets stay out of it by their types: nothing in [`crate::secret`] can be printed. What comes from outside can be
//! printed and so may hold anything; no character of it ends a line, moves a cursor or turns the direction of text. Of a
//! panic only the place is told.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};

/// What of a running log can be changed: its filter.
pub struct Filter(Box<dyn Fn(EnvFilter) + Send + Sync>);

impl Filter {
    /// From now on only what `settings` filter is logged.
    pub fn set(&self, settings: &Log) {
        (self.0)(filter(settings));
    }
}

/// Logs this process's events as `settings` say; once for a process, and without effect after the first time.
pub fn start(settings: &Log) -> Filter {
    start_with(filter(settings), settings.format)
}

fn filter(settings: &Log) -> EnvFilter {
    // `Config::load` has parsed it before.
    EnvFilter::try_new(quietly(&settings.filter)).unwrap_or_else(|_| EnvFilter::new(quietly("info")))
}

/// `filter`, with libraries kept quiet that warn of what anybody can send (a cookie that is none of ours), unless it
/// names them itself: its own directives come after.
fn quietly(filter: &str) -> String {
    format!("tower_sessions=error,tower_sessions_core=error,{filter}")
}

/// What commands that are no server log: warnings, as text.
pub fn start_quiet() {
    start_with(EnvFilter::new("warn"), LogFormat::Pretty);
}

fn start_with(filter: EnvFilter, format: LogFormat) -> Filter {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Lines(format));
    log_panics();
    // A second start in one process (tests) keeps the first log; and a log that is gone has no filter to change.
    match format {
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            let _ = log.try_init();
            Filter(Box::new(move |filter| {
                let _ = handle.reload(filter);
            }))
        }
        LogFormat::Pretty => {
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            let _ = log.try_init();
            Filter(Box::new(move |filter| {
                let _ = handle.reload(filter);
            }))
        }
    }
}

/// Where a panic was, and not what it said, which may hold a secret.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(at, thread = std::thread::current().name().unwrap_or_default(), "panic");
    }));
}

/// Where the subscriber writes; it gives each event to a writer of its own, whole, with its newline.
struct Lines(LogFormat);

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self.0)
    }
}

struct Line(LogFormat);

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // One call for one line, so that lines of several threads do not mix.
        io::stderr().write_all(one_line(&String::from_utf8_lossy(event), self.0).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn one_line(event: &str, format: LogFormat) -> String {
    let text = event.strip_suffix('\n').unwrap_or(event);
    let text = match format {
        LogFormat::Json => printable_json(text),
        LogFormat::Pretty => printable(text),
    };
    format!("{text}\n")
}

/// `text` with every character that would not stay in its place written as an escape: controls (line breaks, ANSI
/// sequences) and those that turn the direction of text.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |out, c| write!(out, "{}", c.escape_default()))
}

/// The same of a text that is JSON: such a character is inside a string there, where `\uXXXX` stands for it; all of
/// them are below U+10000.
pub fn printable_json(text: &str) -> Cow<'_, str> {
    escape(text, |out, c| write!(out, "\\u{:04x}", u32::from(c)))
}

fn escape(text: &str, write: impl Fn(&mut String, char) -> std::fmt::Result) -> Cow<'_, str> {
    if !text.chars().any(moves) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if moves(c) {
            // Writing to a String cannot fail.
            let _ = write(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn moves(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const NASTY: &str = "a\r\nb\u{1b}[31mc\u{9b}2Jd\u{202e}e\u{2028}f\u{7f}\u{85}\0\"\\";

    /// Collects what the real subscriber hands to a writer.
    #[derive(Clone)]
    struct Kept(LogFormat, Arc<Mutex<Vec<String>>>);

    impl Write for Kept {
        fn write(&mut self, event: &[u8]) -> io::Result<usize> {
            self.1.lock().unwrap().push(one_line(std::str::from_utf8(event).unwrap(), self.0));
            Ok(event.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> Vec<String> {
        let kept = Kept(format, Arc::default());
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        let nasty = || {
            tracing::info!(shown = %NASTY, debugged = ?NASTY, plain = NASTY, "{NASTY}");
            tracing::warn!(secret = ?crate::secret::Secret::new("hunter2"), "second");
        };
        match format {
            LogFormat::Json => {
                let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
                tracing::subscriber::with_default(log.finish(), nasty);
            }
            LogFormat::Pretty => tracing::subscriber::with_default(log.finish(), nasty),
        }
        let lines = kept.1.lock().unwrap();
        lines.clone()
    }

    fn is_one_line(line: &str) -> bool {
        line.strip_suffix('\n').is_some_and(|text| !text.chars().any(moves))
    }

    #[test]
    fn t175_an_event_is_one_line_of_json_whatever_its_fields_hold() {
        let lines = logged(LogFormat::Json);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| is_one_line(line)), "{lines:?}");
        let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(event["shown"], NASTY);
        assert_eq!(event["message"], NASTY);
        assert_eq!(event["level"], "INFO");
        assert!(event["target"].as_str().unwrap().starts_with("sealwright"));
        let time = event["timestamp"].as_str().unwrap();
        let time = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339);
        assert!(time.is_ok_and(|time| time.offset().is_utc()));
    }

    #[test]
    fn t175_an_event_is_one_line_of_text_whatever_its_fields_hold() {
        let lines = logged(LogFormat::Pretty);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| is_one_line(line)), "{lines:?}");
    }

    #[test]
    fn what_anybody_can_send_is_no_warning() {
        let lines = |filter: &str| {
            let kept = Kept(LogFormat::Pretty, Arc::default());
            let writer = kept.clone();
            let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(quietly(filter))).with_ansi(false);
            tracing::subscriber::with_default(log.with_writer(move || writer.clone()).finish(), || {
                tracing::warn!(target: "tower_sessions_core::session", "library");
                tracing::warn!(target: "tower_sessions::service", "library");
                tracing::error!(target: "tower_sessions::service", "library breaks");
                tracing::warn!(target: "sealwright::log", "ours");
            });
            let lines = kept.1.lock().unwrap();
            lines.iter().map(|line| line.rsplit(": ").next().unwrap().trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lines("info"), ["library breaks", "ours"]);
        assert_eq!(lines("info,tower_sessions_core=warn"), ["library", "library breaks", "ours"]);
        assert_eq!(lines("off"), ["library breaks"]);
    }

    /// In a process of its own, which is this test again.
    #[test]
    fn t174_a_panic_is_one_line_of_where_it_was_and_nothing_of_its_text() {
        const PANICS: &str = "TEST_PANICS_WITH_LOG_FORMAT";
        if let Ok(format) = std::env::var(PANICS) {
            start(&Log { format: format.parse().unwrap(), filter: "info".to_owned(), requests: false });
            assert!(std::thread::spawn(|| panic!("hunter2\nhunter3")).join().is_err());
            return;
        }
        let name = "log::tests::t174_a_panic_is_one_line_of_where_it_was_and_nothing_of_its_text";
        for format in LogFormat::ALL {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            let again = again.args(["--exact", name, "--nocapture"]).env(PANICS, format.as_str()).output().unwrap();
            assert!(again.status.success(), "{again:?}");
            let told = String::from_utf8(again.stderr).unwrap();
            assert_eq!(told.lines().count(), 1, "{told}");
            assert!(told.contains("panic") && told.contains(file!()), "{told}");
            assert!(!told.contains("hunter") && !String::from_utf8(again.stdout).unwrap().contains("hunter"), "{told}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&told).is_ok(), *format == LogFormat::Json, "{told}");
        }
    }

    #[test]
    fn t174_a_secret_in_a_field_is_not_shown() {
        for format in LogFormat::ALL {
            let lines = logged(*format);
            assert!(lines[1].contains("[secret]") && !lines[1].contains("hunter2"), "{lines:?}");
        }
    }
}
