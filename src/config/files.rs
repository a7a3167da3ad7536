//! How many connections fit into what this process may open (`RLIMIT_NOFILE`).

use super::problem::{Origin, Problem};
use super::{Config, DatabaseUrl};

/// What a server opens beside connections of clients and of the database: its own files, listeners, requests to others.
const OWN_FILES: usize = 128;

impl Config {
    /// How many connections each listener takes at one time where this process may open `files` files: what
    /// `http.max_connections` says, or fewer where nobody set that.
    ///
    /// # Errors
    /// When there is no room for what was set, or for any.
    pub fn connections(&self, files: usize) -> Result<usize, Problem> {
        let wanted = self.http.max_connections;
        // SQLite has its log and its index open beside the file, by each connection.
        let for_each = if matches!(self.database.url, DatabaseUrl::Sqlite(_)) { 3 } else { 1 };
        let database = usize::try_from(self.database.max_connections).unwrap_or(usize::MAX).saturating_mul(for_each);
        let listeners = [self.http.listen.is_empty(), self.tls_listen().is_empty()];
        let listeners = listeners.into_iter().filter(|is_empty| !is_empty).count().max(1);
        let room = files.saturating_sub(database).saturating_sub(OWN_FILES) / listeners;
        let origin = self.origin("http.max_connections");
        if room == 0 || room < wanted && origin != Origin::Default {
            let needed = wanted.saturating_mul(listeners).saturating_add(database).saturating_add(OWN_FILES);
            let text = format!(
                "{wanted} connections take {needed} open files with everything else, and this process may open {files}; \
                 raise that (ulimit -n {needed}; LimitNOFILE={needed} in a systemd unit), or set {room}"
            );
            return Err(Problem { key: "http.max_connections".to_owned(), origin, text });
        }
        Ok(wanted.min(room))
    }
}

/// How many files this process may open; without bound where the system does not say.
pub fn open_files() -> usize {
    std::fs::read_to_string("/proc/self/limits").ok().and_then(|text| soft_limit(&text)).unwrap_or(usize::MAX)
}

/// The line is `Max open files            1024                 524288               files`, or says `unlimited`.
fn soft_limit(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_soft_one_and_may_be_none() {
        let line = "Max processes  5 5 processes\nMax open files            1024                 524288               files \n";
        assert_eq!(soft_limit(line), Some(1024));
        assert_eq!(soft_limit(&line.replace("1024  ", "unlimited")), None);
        assert_eq!(soft_limit(""), None);
        assert!(open_files() > 0);
    }

    #[test]
    fn connections_fit_into_the_open_files_or_are_refused() {
        let load = |set: Option<(&str, &str)>| {
            Config::load(None, set.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap()
        };
        // 16 connections to SQLite of three files each, and our own 128.
        let mut config = load(None);
        assert_eq!(config.connections(usize::MAX).unwrap(), 10_000);
        assert_eq!(config.connections(10_176).unwrap(), 10_000);
        assert_eq!(config.connections(1_024).unwrap(), 848, "fewer, for nobody set it");
        config.tls.certificate = Some("a.pem".into());
        assert_eq!(config.connections(1_024).unwrap(), 424, "each of two listeners");
        assert!(config.connections(176).is_err(), "none at all");
        let set = load(Some(("SEALWRIGHT_HTTP__MAX_CONNECTIONS", "900")));
        assert_eq!(set.connections(1_076).unwrap(), 900);
        let refused = set.connections(1_075).unwrap_err().to_string();
        assert!(refused.starts_with("http.max_connections (") && refused.contains("ulimit -n 1076"), "{refused}");
    }
}
