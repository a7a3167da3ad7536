use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::value::Raw;
use super::*;
use crate::secret::random;

/// A folder of its own, gone when the test is.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name: u128 = u128::from_be_bytes(random().unwrap());
        let path = std::env::temp_dir().join(format!("sealwright-config-{name:032x}"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads `text` as the file and `pairs` as the environment. Problems come as lines, with the file as `config.toml`.
fn load(text: &str, pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let folder = Folder::new();
    let file = folder.file("config.toml", text);
    let place = format!("{}/", folder.0.display());
    Config::load(Some(&file), env(pairs))
        .map_err(|errors| errors.to_string().lines().map(|line| line.replace(&place, "")).collect())
}

fn refused(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    load(text, pairs).map(|config| format!("{config:?}")).expect_err("should have been refused")
}

fn production(text: &str) -> Vec<String> {
    let config = load(text, &[("SEALWRIGHT_ISSUER", "https://id.example.com")]).unwrap();
    lines(&config.validate(Mode::Production))
}

/// As lines; each must name a key that exists.
fn lines(problems: &[Problem]) -> Vec<String> {
    assert!(problems.iter().all(|problem| Key::find(&problem.key).is_some()), "{problems:?}");
    problems.iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect()
}

const MASTER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

#[test]
fn a_later_source_wins() {
    let text = "issuer = 'https://a.example'\n[http]\nlisten = ['127.0.0.1:1']\nmax_connections = 0x10\n[log]\nrequests = false";
    let config = load(text, &[("SEALWRIGHT_HTTP__LISTEN", "127.0.0.1:2, [::1]:2"), ("HOME", "/")]).unwrap();
    assert_eq!(config.issuer.as_ref().unwrap().as_str(), "https://a.example");
    assert_eq!(config.http.listen, ["127.0.0.1:2", "[::1]:2"].map(|text| text.parse().unwrap()));
    assert_eq!(config.http.max_connections, 16);
    assert_eq!(config.http.max_body_bytes, 65_536);
    assert!(!config.log.requests);
    assert_eq!(config.origin("http.listen"), Origin::Variable("SEALWRIGHT_HTTP__LISTEN".to_owned()));
    assert!(matches!(config.origin("http.max_connections"), Origin::File { line: 4, .. }));
    assert_eq!(config.origin("http.max_body_bytes"), Origin::Default);
}

#[test]
fn every_key_can_be_set_by_its_variable_to_its_default() {
    let pairs = KEYS.iter().map(|key| {
        let toml = (key.default)();
        let items = if (key.kind)().starts_with("list") { &toml[1..toml.len() - 1] } else { &toml };
        (key.env(), items.replace('"', ""))
    });
    let config = Config::load(None, pairs).unwrap_or_else(|errors| panic!("{errors}"));
    let bare = |config: &Config| format!("{:?}", Config { origins: Origins::new(), ..config.clone() });
    assert_eq!(bare(&config), bare(&Config::default()));
}

#[test]
fn every_default_in_the_reference_is_toml_that_the_file_takes() {
    for key in KEYS.iter().filter(|key| !(key.default)().is_empty()) {
        load(&format!("{} = {}", key.name, (key.default)()), &[]).unwrap();
    }
}

#[test]
fn a_number_for_all_algorithms_may_have_exceptions() {
    let read = |text: &str, pairs| load(text, pairs).unwrap().keys.active_seconds;
    for numbers in [
        read("keys.active_seconds = [100, 'RS256=200', 'ES256 = 300']", &[]),
        read("", &[("SEALWRIGHT_KEYS__ACTIVE_SECONDS", "100, RS256=200,ES256= 300")]),
    ] {
        let of = [Algorithm::Rs256, Algorithm::EdDsa, Algorithm::Es256].map(|algorithm| numbers.of(algorithm));
        assert_eq!((of, numbers.to_string().as_str()), ([200, 100, 300], "100, RS256 200, ES256 300"));
        let text = format!("keys.active_seconds = {}", numbers.show());
        assert_eq!(read(&text, &[]), numbers, "{text}");
    }
    assert_eq!(read("keys.active_seconds = 7", &[]), ByAlgorithm::all(7));
    for (wrong, told) in [
        ("[]", "is an empty list"),
        ("['RS256=1']", "must be an integer"),
        ("[1, 'HS256=1']", "\"HS256=1\" is not ALG=integer"),
        ("[1, 'RS256']", "\"RS256\" is not ALG=integer"),
        ("[1, 2]", "must be a string"),
        ("[1, 'RS256=0']", "0 is out of range"),
        ("'x'", "must be an integer"),
    ] {
        let errors = refused(&format!("keys.active_seconds = {wrong}"), &[]);
        assert!(errors.len() == 1 && errors[0].contains(told), "{wrong}: {errors:?}");
    }
}

#[test]
fn an_empty_list_or_an_empty_option_in_the_environment_is_none() {
    let pairs = [("SEALWRIGHT_HTTP__LISTEN", ""), ("SEALWRIGHT_ISSUER", "")];
    let config = load("issuer = 'https://a.example'", &pairs).unwrap();
    assert!(config.http.listen.is_empty());
    assert!(config.issuer.is_none());
}

#[test]
fn a_secret_is_read_from_a_file_without_its_last_newline() {
    let folder = Folder::new();
    let url = folder.file("url", "postgres://u:hunter2@db/x\n");
    let key = folder.file("key", &format!("{MASTER_KEY}\r\n"));
    let text = format!("[master_key]\nvalue_file = {key:?}");
    let config = load(&text, &[("SEALWRIGHT_DATABASE__URL_FILE", url.to_str().unwrap())]).unwrap();
    let DatabaseUrl::Postgres(url) = &config.database.url else { panic!("not PostgreSQL") };
    assert_eq!(url.expose(), "postgres://u:hunter2@db/x");
    assert_eq!(config.master_key.value.as_ref().unwrap().expose(), MASTER_KEY);
    let two = folder.file("two", &format!("{MASTER_KEY}\nx\n"));
    assert_eq!(
        refused(&format!("[master_key]\nvalue_file = {two:?}"), &[]),
        ["master_key.value (config.toml:2): is not a master key; allowed: 32 bytes, as 64 hexadecimal digits or 43 \
          characters of base64url"]
    );
}

#[test]
fn a_secret_file_that_cannot_be_read_is_named() {
    assert_eq!(
        refused("[database]\nurl_file = '/nowhere/url'", &[("SEALWRIGHT_MASTER_KEY__VALUE_FILE", "/nowhere/key")]),
        [
            "database.url (config.toml:2): cannot read the file \"/nowhere/url\": No such file or directory (os error 2)",
            "master_key.value (SEALWRIGHT_MASTER_KEY__VALUE_FILE): cannot read the file \"/nowhere/key\": \
             No such file or directory (os error 2)",
        ]
    );
}

#[test]
fn a_secret_given_twice_by_one_source_is_refused_and_by_two_the_later_wins() {
    let pairs = [("SEALWRIGHT_MASTER_KEY__VALUE", MASTER_KEY), ("SEALWRIGHT_MASTER_KEY__VALUE_FILE", "x")];
    assert_eq!(
        refused("[database]\nurl = 'sqlite:a'\nurl_file = 'b'", &pairs),
        [
            "database.url (config.toml:3): is given twice, also by database.url_file; keep one of the two",
            "master_key.value (SEALWRIGHT_MASTER_KEY__VALUE_FILE): is given twice, also by SEALWRIGHT_MASTER_KEY__VALUE; \
             keep one of the two",
        ]
    );
    let folder = Folder::new();
    let url = folder.file("url", "sqlite:late.db");
    let config =
        load("[database]\nurl = 'sqlite:early.db'", &[("SEALWRIGHT_DATABASE__URL_FILE", url.to_str().unwrap())]);
    assert_eq!(config.unwrap().database.url.describe(), "SQLite, late.db");
}

#[test]
fn unknown_keys_sections_and_variables_are_refused_with_the_nearest_name() {
    let text = "isuer = 'x'\n[http]\nlisen = []\nlisten_file = 'x'\n[htpp]\nlisten = []\n[entirely.other]\nx = 1";
    assert_eq!(
        refused(text, &[("SEALWRIGHT_HTTP_LISTEN", ""), ("SEALWRIGHT_WHATEVER", ""), ("SEALWRIGHT_ISSUER_FILE", "x")]),
        [
            "entirely (config.toml:7): there is no such section or key",
            "htpp (config.toml:5): there is no such section or key; did you mean http?",
            "http.lisen (config.toml:3): there is no such key; did you mean http.listen?",
            "http.listen_file (config.toml:4): there is no such key",
            "isuer (config.toml:1): there is no such section or key; did you mean issuer?",
            "SEALWRIGHT_HTTP_LISTEN: there is no setting of this name; did you mean SEALWRIGHT_HTTP__LISTEN?",
            "SEALWRIGHT_ISSUER_FILE: there is no setting of this name",
            "SEALWRIGHT_WHATEVER: there is no setting of this name",
        ]
    );
    assert_eq!(refused("http = 1", &[]), ["http (config.toml:1): is a section; write [http] and its keys under it"]);
}

#[test]
fn variables_of_the_command_line_and_of_kubernetes_are_no_settings() {
    let pairs = [
        ("SEALWRIGHT_CONFIG", "config.toml"),
        ("SEALWRIGHT_SERVICE_HOST", "10.0.0.1"),
        ("SEALWRIGHT_SERVICE_PORT", "8080"),
        ("SEALWRIGHT_SERVICE_PORT_HTTP", "8080"),
        ("SEALWRIGHT_PORT", "tcp://10.0.0.1:8080"),
        ("SEALWRIGHT_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("SEALWRIGHT_MANAGEMENT_SERVICE_HOST", "10.0.0.1"),
    ];
    load("", &pairs).unwrap();
    refused("", &[("SEALWRIGHT_PORT", "8080")]);
}

#[test]
fn every_wrong_value_is_told_with_its_place_and_what_is_allowed() {
    let text = "issuer = 'https://a.example/'\n[http]\nlisten = '127.0.0.1:1'\ntrusted_proxies = ['10.0.0.0/33']\n\
                max_connections = 0\nmax_body_bytes = '2000'\ndrain_seconds = -1\n[keys]\nalgorithms = ['HS256']\n\
                rsa_bits = 1024\n[log]\nformat = 'xml'\nrequests = 1.5";
    let pairs = [
        ("SEALWRIGHT_DATABASE__MIGRATE", "yes"),
        ("SEALWRIGHT_DATABASE__URL", "mysql://u:hunter2@db/x"),
        ("SEALWRIGHT_MANAGEMENT__LISTEN", "example.com:80"),
        ("SEALWRIGHT_SECRETS__ARGON2_QUEUE", "many"),
        ("SEALWRIGHT_LOG__FILTER", "a=b=c"),
    ];
    let told = refused(text, &pairs);
    let expected = [
        "issuer (config.toml:1): ends with a slash; leave it out; allowed: https://HOST",
        "http.listen (config.toml:3): must be a list, such as [\"…\"], but is a string; allowed: an IP address or",
        "http.trusted_proxies (config.toml:4): \"10.0.0.0/33\" is not a network; allowed: an address with a prefix",
        "http.max_connections (config.toml:5): 0 is out of range; allowed: 1 to 1000000",
        "http.max_body_bytes (config.toml:6): must be an integer, but is a string; allowed: 1024 to 16777216",
        "http.drain_seconds (config.toml:7): -1 is out of range; allowed: 0 to 3600",
        "management.listen (SEALWRIGHT_MANAGEMENT__LISTEN): \"example.com:80\" is not an address to listen on; allowed:",
        "database.url (SEALWRIGHT_DATABASE__URL): is neither a SQLite nor a PostgreSQL URL; allowed: sqlite:PATH",
        "database.migrate (SEALWRIGHT_DATABASE__MIGRATE): \"yes\" is not a boolean; allowed: true, false",
        "keys.algorithms (config.toml:9): \"HS256\" is not \"RS256\" or \"EdDSA\" or \"ES256\" or \"PS256\"",
        "keys.rsa_bits (config.toml:10): 1024 is not among the allowed values; allowed: 2048, 3072, 4096",
        "secrets.argon2_queue (SEALWRIGHT_SECRETS__ARGON2_QUEUE): \"many\" is not an integer; allowed: 0 to 100000",
        "log.format (config.toml:12): \"xml\" is not \"json\" or \"pretty\"",
        "log.filter (SEALWRIGHT_LOG__FILTER): \"a=b=c\" is not a filter:",
        "log.requests (config.toml:13): must be true or false, but is a floating-point number",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
}

#[test]
fn wcag_1_4_3_a_colour_that_letters_cannot_be_read_on_is_refused() {
    for (color, says) in [("#ffcc00", "has a contrast of 1.5 against white"), ("red", "is not a colour")] {
        let [told] = refused(&format!("branding.color = '{color}'"), &[]).try_into().unwrap();
        assert!(told.starts_with("branding.color (config.toml:1): ") && told.contains(says), "{told}");
    }
    assert_eq!(load("branding.color = '#006644'", &[]).unwrap().branding.color, "#006644");
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_told_beside_the_variables() {
    let errors =
        Config::load(Some(Path::new("/nowhere/c.toml")), env(&[("SEALWRIGHT_HTTP__LISTEN", "x")])).unwrap_err();
    assert_eq!(errors.0.len(), 2);
    assert!(errors.to_string().starts_with("cannot read the configuration file /nowhere/c.toml: No such file"));
    let told = refused("[http]\nlisten = \n[http]\n", &[("SEALWRIGHT_HTTP__LISTEN", "x")]);
    assert!(told[0].starts_with("config.toml:2: not TOML: "), "{told:?}");
    assert!(told.last().unwrap().starts_with("http.listen (SEALWRIGHT_HTTP__LISTEN): "), "{told:?}");
}

#[test]
fn t174_secrets_are_in_no_error_debug_or_summary() {
    let mut seen = String::new();
    for (name, value) in [
        ("SEALWRIGHT_DATABASE__URL", "postgres://u:hunter2@:bad:/x"),
        ("SEALWRIGHT_DATABASE__URL", "hunter2://x"),
        ("SEALWRIGHT_DATABASE__URL", "sqlite:hunter2?key=x"),
        ("SEALWRIGHT_MASTER_KEY__VALUE", "hunter2"),
        ("SEALWRIGHT_ISSUER", "https://u:hunter2@a.example"),
    ] {
        seen += &refused("", &[(name, value)]).join("\n");
    }
    for text in ["url = 'postgres://hunter2", "url = ['hunter2']", "url_file = ['hunter2']", "url = 'a'hunter2"] {
        seen += &refused(&format!("[database]\n{text}"), &[]).join("\n");
    }
    let key = MASTER_KEY.replace("0011", "beef");
    let text = format!("[database]\nurl = 'postgres://u:hunter2@db/x?password=hunter2'\n[master_key]\nvalue = '{key}'");
    let config = load(&text, &[]).unwrap();
    write!(seen, "{config:?}{:?}{:?}", config.summary(), config.validate(Mode::Production)).unwrap();
    assert!(!seen.contains("hunter2") && !seen.contains("beef"), "{seen}");
    assert!(seen.contains("PostgreSQL, db port 5432, database \\\"x\\\""), "{seen}");
}

/// What its place in memory holds once it is gone; others may have it by then, which is no trace of it either.
#[test]
fn a_value_that_may_be_a_secret_leaves_nothing_behind_in_memory() {
    use std::os::unix::fs::FileExt as _;
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let is_left = |at: u64| {
        // On the stack: a buffer of the heap would take the very place that was given back.
        let mut bytes = [0; 4096];
        // A page that was given back to the system cannot be read.
        memory.read_exact_at(&mut bytes, at).is_ok() && bytes.windows(8).any(|window| window == b"hunter22")
    };
    for value in [Raw::Text, Raw::Variable] {
        let text = "hunter22".repeat(512);
        let at = u64::try_from(text.as_ptr().addr()).unwrap();
        let value = Raw::List(vec![value(text)]);
        assert!(is_left(at));
        drop(value);
        assert!(!is_left(at));
    }
}

#[test]
fn the_reference_has_every_key_exactly_once() {
    let text = reference();
    for key in KEYS {
        assert_eq!(text.matches(&format!("| `{}` |", key.name)).count(), 1, "{}", key.name);
        assert!(key.help.trim().ends_with('.'), "{}", key.name);
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("| `")).count(), KEYS.len());
    assert!(text.lines().filter(|line| line.starts_with('|')).all(|line| line.matches(" | ").count() == 3));
    assert!(text.contains("| `http.listen` | list of strings (an IP address or"), "{text}");
    assert!(text.contains("| `database.url` | URL, *secret* | `\"sqlite:sealwright.db\"` |"), "{text}");
    assert!(text.contains("| `http.drain_seconds` | integer (0 to 3600) | `10` |"), "{text}");
}

#[test]
fn names_of_variables_are_distinct_and_no_secrets_file_is_another_key() {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for key in KEYS {
        assert!(names.insert(key.env()), "{}", key.name);
        assert!(!key.secret || names.insert(format!("{}_FILE", key.env())), "{}", key.name);
    }
    assert_eq!(Key::find("http.listen").unwrap().env(), "SEALWRIGHT_HTTP__LISTEN");
    assert_eq!(Key::find("issuer").unwrap().env(), "SEALWRIGHT_ISSUER");
}

#[test]
fn rfc8414_2_what_is_an_issuer() {
    for (text, path, https, loopback) in [
        ("https://id.example.com", "", true, false),
        ("https://id.example.com:8443/tenant", "/tenant", true, false),
        ("https://id.example.com/a/b-c_d.e~f", "/a/b-c_d.e~f", true, false),
        ("https://[2001:db8::1]/t", "/t", true, false),
        ("http://localhost:8080", "", false, true),
        ("http://127.1.2.3:8080/x", "/x", false, true),
        ("http://[::1]:8080", "", false, true),
        ("http://localhost.example.com", "", false, false),
    ] {
        let issuer = Issuer::parse(text).unwrap_or_else(|error| panic!("{text} {error}"));
        assert_eq!((issuer.as_str(), issuer.path()), (text, path));
        assert_eq!((issuer.is_https(), issuer.is_loopback()), (https, loopback), "{text}");
        assert_eq!(issuer.endpoint("/oauth2/token"), format!("{text}/oauth2/token"));
    }
    for (text, why) in [
        ("", "is not a URL"),
        ("id.example.com", "is not a URL"),
        ("https://", "is not a URL"),
        ("ftp://id.example.com", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("https://id.example.com/", "slash"),
        ("https://id.example.com/a/", "slash"),
        ("https://id.example.com?x", "query"),
        ("https://id.example.com/a?", "query"),
        ("https://id.example.com#", "fragment"),
        ("https://u@id.example.com", "user name"),
        ("https://:p@id.example.com", "user name"),
        ("https://@id.example.com", "user name"),
        ("https://ID.example.com", "write https://id.example.com"),
        ("HTTPS://id.example.com", "write https://id.example.com"),
        (" https://id.example.com", "write https://id.example.com"),
        ("https://id.example.com\n", "write https://id.example.com"),
        ("https://id.example.com:443", "write https://id.example.com"),
        ("https://id.example.com/a/../b", "write https://id.example.com/b"),
        ("https:\\\\id.example.com", "write https://id.example.com"),
        ("http://127.1", "write http://127.0.0.1"),
        ("https://ä.example", "write https://xn--"),
        ("https://id.example.com//a", "single slashes"),
        ("https://id.example.com/a%2Fb", "other characters"),
        ("https://id.example.com/{x}", "write"),
        ("https://id.example.com/a:b", "other characters"),
    ] {
        let told = Issuer::parse(text).expect_err(text);
        assert!(told.contains(why), "{text:?}: {told}");
    }
}

#[test]
fn listeners_are_addresses_and_loopback_is_told_apart() {
    for text in ["localhost:8080", "127.0.0.1:0", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        let listen: Listen = text.parse().unwrap();
        assert!(listen.is_loopback(), "{text}");
        assert_eq!(listen.to_string(), text);
    }
    for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        assert!(!text.parse::<Listen>().unwrap().is_loopback(), "{text}");
    }
    for text in ["8080", "localhost.example.com:1", "localhost", ":8080", "", "localhost:99999", "127.0.0.1:99999"] {
        assert!(text.parse::<Listen>().is_err(), "{text}");
    }
}

#[test]
fn database_urls() {
    for (text, file) in [
        ("sqlite:a.db", "a.db"),
        ("sqlite:/x/a.db", "/x/a.db"),
        ("sqlite:///x/a.db", "/x/a.db"),
        ("sqlite://a.db", "a.db"),
    ] {
        let Ok(DatabaseUrl::Sqlite(path)) = DatabaseUrl::parse(text) else { panic!("{text}") };
        assert_eq!(path, Path::new(file));
    }
    for text in ["postgres://localhost/x", "postgresql://u:p@h:5433/x?sslmode=require", "postgres:///x?host=/run/pg"] {
        assert!(matches!(DatabaseUrl::parse(text), Ok(DatabaseUrl::Postgres(_))), "{text}");
    }
    for text in ["", "sqlite:", "sqlite://", "sqlite::memory:", "sqlite:a?mode=ro", "a.db", "mysql://h/x", "postgres:x"]
    {
        DatabaseUrl::parse(text).expect_err(text);
    }
    let told = |text: &str| DatabaseUrl::parse(text).unwrap().describe();
    assert_eq!(told("postgres://u:p@h:5433/x?password=p"), "PostgreSQL, h port 5433, database \"x\"");
    assert_eq!(told("postgres:///x"), "PostgreSQL, a local socket port 5432, database \"x\"");
}

#[test]
fn a_master_key_is_32_bytes() {
    let hex = master_key_bytes(MASTER_KEY).unwrap();
    assert_eq!(hex[..4], [0x00, 0x11, 0x22, 0x33]);
    assert_eq!(master_key_bytes("ABEiM0RVZneImaq7zN3u_wARIjNEVWZ3iJmqu8zd7v8").unwrap()[..], hex[..]);
    for bad in [&MASTER_KEY[1..], &MASTER_KEY.replace('0', "g"), "", "ABEi", &"A".repeat(44), &"é".repeat(32)] {
        assert!(master_key_bytes(bad).is_none(), "{bad}");
    }
}

#[test]
fn the_master_keys_place_follows_the_database() {
    let place = |text: &str| format!("{:?}", load(text, &[]).unwrap().master_key_source());
    assert_eq!(place(""), "Some(Made(\"sealwright.key\"))");
    assert_eq!(place("database.url = 'sqlite:/data/x.db'"), "Some(Made(\"/data/sealwright.key\"))");
    assert_eq!(place("master_key.file = '/k'"), "Some(Made(\"/k\"))");
    assert_eq!(place("master_key.file = '/k'\ndatabase.url = 'postgres://h/x'"), "Some(File(\"/k\"))");
    assert_eq!(place(&format!("master_key.value = '{MASTER_KEY}'")), "Some(Value([secret]))");
    assert_eq!(place("database.url = 'postgres://h/x'"), "None");
    assert!(load("", &[]).unwrap().migrates());
    assert!(!load("database.url = 'postgres://h/x'", &[]).unwrap().migrates());
    assert!(load("database.url = 'postgres://h/x'\ndatabase.migrate = true", &[]).unwrap().migrates());
}

#[test]
fn production_needs_an_issuer_and_https_off_loopback() {
    let told = |issuer: &str| lines(&load("", &[("SEALWRIGHT_ISSUER", issuer)]).unwrap().validate(Mode::Production));
    assert!(told("")[0].starts_with("issuer: must be set"));
    assert!(told("http://id.example.com")[0].contains("must be https off this machine: over plain http everybody"));
    assert!(told("https://id.example.com").is_empty());
    assert!(told("http://localhost:8080").is_empty());
    let development = load("", &[("SEALWRIGHT_ISSUER", "http://localhost:8080")]).unwrap();
    assert!(development.validate(Mode::Development).is_empty());
}

#[test]
fn production_refuses_a_key_file_that_others_can_read() {
    let folder = Folder::new();
    let certificate = folder.file("cert.pem", "x");
    let private_key = folder.file("key.pem", "x");
    let master_key = folder.file("sealwright.key", MASTER_KEY);
    let database = folder.0.join("x.db");
    let text = format!(
        "database.url = 'sqlite:{}'\n[tls]\ncertificate = {certificate:?}\nprivate_key = {private_key:?}",
        database.display()
    );
    let mode = |mode: u32| {
        for file in [&private_key, &master_key] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        production(&text)
    };
    for readable in [0o640, 0o604, 0o644] {
        let told = mode(readable);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("tls.private_key: ") && told[1].starts_with("master_key.file: "), "{told:?}");
        assert!(told[0].contains(&format!("(mode {readable:04o})")), "{told:?}");
        assert!(told[0].ends_with(&format!("run: chmod 600 {}", private_key.display())), "{told:?}");
    }
    assert_eq!(mode(0o600), [""; 0]);
    assert_eq!(mode(0o400), [""; 0]);
}

/// By whatever way a secret comes to us from a file.
#[test]
fn production_refuses_a_secret_from_any_file_that_others_can_read() {
    let folder = Folder::new();
    let (inline, with_password) = (format!("master_key.value = '{MASTER_KEY}'\n"), "postgres://u:hunter2@h/x");
    let (key, url) = (folder.file("key", MASTER_KEY), folder.file("url", with_password));
    let in_query = "database.url = 'postgres://h/x?password=hunter2'\n";
    let in_authority = format!("database.url = '{with_password}'\n");
    let (key_file, url_file) = (format!("master_key.value_file = {key:?}\n"), format!("database.url_file = {url:?}\n"));
    let (key_variable, url_variable) = (
        ("SEALWRIGHT_MASTER_KEY__VALUE_FILE", key.to_str().unwrap()),
        ("SEALWRIGHT_DATABASE__URL_FILE", url.to_str().unwrap()),
    );
    let configuration = folder.0.join("config.toml");
    for (text, variable, holder, refused) in [
        (inline.clone(), None, &configuration, "master_key.value: "),
        (key_file, None, &key, "master_key.value: "),
        (String::new(), Some(key_variable), &key, "master_key.value: "),
        (format!("{in_query}{inline}"), None, &configuration, "database.url: "),
        (format!("{in_authority}{inline}"), None, &configuration, "database.url: "),
        (format!("{url_file}{inline}"), None, &url, "database.url: "),
        (inline.clone(), Some(url_variable), &url, "database.url: "),
    ] {
        for mode in [0o600, 0o400, 0o604, 0o640, 0o602, 0o620] {
            for file in [&configuration, &key, &url] {
                let _ = fs::set_permissions(file, fs::Permissions::from_mode(0o600));
            }
            fs::write(&configuration, &text).unwrap();
            fs::set_permissions(holder, fs::Permissions::from_mode(mode)).unwrap();
            let variables = variable.into_iter().chain([("SEALWRIGHT_ISSUER", "https://id.example.com")]);
            let config = Config::load(Some(&configuration), env(&variables.collect::<Vec<_>>())).unwrap();
            let told = lines(&config.validate(Mode::Production));
            if mode & 0o066 == 0 {
                assert_eq!(told, [""; 0], "{text} {variable:?}");
                continue;
            }
            let last = told.last().unwrap();
            assert!(last.starts_with(refused), "{text} {variable:?}: {told:?}");
            assert!(last.ends_with(&format!("run: chmod 600 {}", holder.display())), "{told:?}");
            assert!(config.validate(Mode::Development).is_empty());
        }
    }
    // What is no secret may stand where everybody reads it.
    for text in ["database.url = 'sqlite:a.db'", &format!("database.url = 'postgres://h/x'\nmaster_key.file = {key:?}")]
    {
        fs::write(&configuration, text).unwrap();
        fs::set_permissions(&configuration, fs::Permissions::from_mode(0o644)).unwrap();
        let config = Config::load(Some(&configuration), env(&[("SEALWRIGHT_ISSUER", "https://a.example")])).unwrap();
        assert_eq!(lines(&config.validate(Mode::Production)), [""; 0], "{text}");
    }
}

/// Somebody else's file, such as root's, is given to us by its group.
#[test]
fn a_file_of_another_owner_may_be_read_by_its_group() {
    use super::check::is_open;
    assert!(!is_open(0o640, false) && !is_open(0o440, false) && !is_open(0o600, false));
    assert!(is_open(0o640, true) && is_open(0o644, false) && is_open(0o660, false) && is_open(0o606, false));
}

#[test]
fn what_is_wrong_between_keys_is_told() {
    let folder = Folder::new();
    let private_key = folder.file("key.pem", "x");
    fs::set_permissions(&private_key, fs::Permissions::from_mode(0o600)).unwrap();
    let no_certificate = format!("tls = {{ certificate = '/nowhere/c', private_key = {private_key:?} }}");
    for (text, start) in [
        ("tls.certificate = '/c'", "tls.private_key: is missing"),
        ("tls.private_key = '/k'", "tls.certificate: is missing"),
        (&no_certificate, "tls.certificate: cannot open /nowhere/c"),
        ("http.listen = []", "http.listen: is empty"),
        ("database.url = 'postgres://h/x'", "master_key.file: must be set on PostgreSQL"),
        ("database.url = 'postgres://h/x'\nmaster_key.file = '/nowhere/k'", "master_key.file: cannot open /nowhere/k"),
        (&format!("master_key = {{ file = 'k', value = '{MASTER_KEY}' }}"), "master_key.value: is given beside"),
        ("keys.algorithms = ['RS256', 'ES256']", "keys.algorithms: lacks EdDSA"),
        ("keys.algorithms = ['EdDSA', 'RS256', 'EdDSA']", "keys.algorithms: names EdDSA twice"),
        ("keys.published_seconds = [86400, 'RS256=309']", "keys.published_seconds: is 309 for RS256; it takes 310"),
        ("keys.active_seconds = [86400, 'EdDSA=86399']", "keys.active_seconds: is 86399 for EdDSA, and shorter"),
        ("keys.retiring_seconds = 3914", "keys.retiring_seconds: is 3914 for RS256; it must be at least 3915"),
        ("keys.retiring_seconds = [3915, 'EdDSA=3914']", "keys.retiring_seconds: is 3914 for EdDSA; it must be"),
        ("tokens.access_token_lifetime_seconds = 3601", "tokens.access_token_lifetime_seconds: is longer than"),
        ("database.deadline_milliseconds = 10_000", "database.deadline_milliseconds: must be shorter than"),
        ("outbound.allow_http = true", "outbound.allow_http: is only for development"),
        ("http.trusted_proxies = ['10.0.0.0/8', '0.0.0.0/0']", "http.trusted_proxies: trusts every address"),
        ("outbound.allow_networks = ['::/0']", "outbound.allow_networks: allows every address"),
    ] {
        let told = production(text);
        assert_eq!(told.len(), 1, "{text}: {told:?}");
        assert!(told[0].starts_with(start), "{text}: {told:?}");
    }
}

#[test]
fn development_listens_on_loopback_only() {
    let told = |text: &str| lines(&load(text, &[]).unwrap().validate(Mode::Development));
    assert!(told("").is_empty());
    assert!(told("outbound.allow_http = true").is_empty());
    let told = told(
        "http.listen = ['127.0.0.1:1', '0.0.0.0:1']\nmanagement.listen = ['[::]:2']\n\
         tls = { certificate = '/dev/null', private_key = '/dev/null' }",
    );
    let keys: Vec<_> = told.iter().map(|line| line.split(" can ").next().unwrap()).collect();
    assert_eq!(keys, ["http.listen: 0.0.0.0:1", "tls.listen: [::]:8443", "management.listen: [::]:2"]);
}

#[test]
fn the_summary_says_what_the_server_would_do() {
    let text = "issuer = 'https://id.example.com'\nhttp.trusted_proxies = ['10.1.2.3/8', '192.0.2.1']\nkeys.eddsa_name = 'Ed25519'";
    let summary = load(text, &[]).unwrap().summary();
    assert_eq!(
        summary.into_iter().map(|(what, how)| format!("{what}: {how}")).collect::<Vec<_>>(),
        [
            "issuer: https://id.example.com",
            "http: localhost:8080",
            "tls: off (no certificate)",
            "management: 127.0.0.1:9090",
            "trusted proxies: 10.0.0.0/8, 192.0.2.1/32",
            "database: SQLite, sealwright.db; migrated at start",
            "master key: file sealwright.key, made at the first start",
            "signing keys: RS256 (2048 bit), EdDSA (as Ed25519)",
            "rotation of keys: published 86400 s or more, signing 2592000 s, published for another 90000 s",
            "access tokens: live 300 s unless a client or resource says otherwise, 3600 s at most",
            "outbound requests: https, to public addresses and no others",
            "log: json, filter info, every request",
        ]
    );
}

/// A stale reference is written anew; commit it.
#[test]
fn the_reference_in_readme_is_this_one() {
    let (begin, end) = ("<!-- configuration:begin -->\n", "<!-- configuration:end -->");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let fresh = format!("{before}{begin}{}{end}{after}", reference());
    if fresh != text {
        fs::write(path, fresh).unwrap();
        panic!("the configuration reference in README.md was stale and has been written anew");
    }
}
