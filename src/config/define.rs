//! The definition of a key: the macro that turns the one list of settings into types, table, reading and reference.

use std::fmt::Write as _;

use super::KEYS;

/// What the names of our environment variables begin with.
pub(super) const PREFIX: &str = "SEALWRIGHT_";

/// One key, as the reference tells it.
#[derive(Debug)]
pub struct Key {
    /// Its name, `http.listen`; without a dot for a key outside all sections.
    pub name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Whether its value is never shown, and may be given as a file.
    pub secret: bool,
    /// Its type's name.
    pub kind: fn() -> String,
    /// What it allows beyond its type; may be empty.
    pub allowed: fn() -> String,
    /// Its default as TOML; empty when there is none or `help` tells how it is found.
    pub default: fn() -> String,
}

impl Key {
    /// Its environment variable, `SEALWRIGHT_HTTP__LISTEN`.
    pub fn env(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "__").to_ascii_uppercase())
    }

    /// The key of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The names of the sections, each as often as it has keys.
    pub(super) fn sections() -> impl Iterator<Item = &'static str> {
        KEYS.iter().filter_map(|key| key.name.split_once('.').map(|(section, _)| section))
    }
}

/// Declares all settings, each once, first the one outside all sections: `/// help`, name, type, default and, after a comma, what is allowed beyond the
/// type. Makes `Config` with one struct for each section, `Default`, the table `KEYS`, and the reading of each key.
macro_rules! settings {
    (@rule) => { Rule::any() };
    (@rule $rule:expr) => { $rule };
    (@key $name:expr, [$($help:literal)+], $type:ty, $default:expr $(, $rule:expr)?) => {
        Key {
            name: $name,
            help: concat!($($help),+),
            secret: <$type as Setting>::SECRET,
            kind: <$type as Setting>::kind,
            allowed: || { let rule: Rule<$type> = settings!(@rule $($rule)?); rule.allowed },
            default: || { let default: $type = $default; Setting::show(&default) },
        }
    };
    (
        $(#[doc = $top_help:literal])+ $top:ident: $top_type:ty = $top_default:expr $(, $top_rule:expr)?;
        $(
            $(#[doc = $about:literal])+
            section $section:ident: $Section:ident {
                $($(#[doc = $help:literal])+ $field:ident: $type:ty = $default:expr $(, $rule:expr)?;)+
            }
        )+
    ) => {
        /// The whole configuration: what a process needs to start. All else is rows in the database.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(#[doc = $top_help])+
            pub $top: $top_type,
            $($(#[doc = $about])+ pub $section: $Section,)+
            origins: Origins,
        }

        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug)]
            pub struct $Section {
                $($(#[doc = $help])+ pub $field: $type,)+
            }
        )+

        /// Every key, in the order of the reference.
        pub const KEYS: &[Key] = &[
            settings!(@key stringify!($top), [$($top_help)+], $top_type, $top_default $(, $top_rule)?),
            $($(settings!(
                @key concat!(stringify!($section), ".", stringify!($field)), [$($help)+], $type, $default $(, $rule)?
            ),)+)+
        ];

        impl Config {
            fn read(sources: &mut Sources) -> Self {
                Self {
                    $top: sources.read(stringify!($top), $top_default, &settings!(@rule $($top_rule)?)),
                    $($section: $Section {
                        $($field: sources.read(
                            concat!(stringify!($section), ".", stringify!($field)),
                            $default,
                            &settings!(@rule $($rule)?),
                        ),)+
                    },)+
                    origins: std::mem::take(&mut sources.origins),
                }
            }
        }
    };
}
pub(super) use settings;

/// The reference in Markdown, for README: how values are given, and one row for each key.
pub fn reference() -> String {
    let mut text = String::from(
        "Settings come from their defaults, then from the TOML file that `--config` names, then from the environment; \
         later wins. The\nvariable of `http.listen` is `SEALWRIGHT_HTTP__LISTEN`; in a variable, commas part the items \
         of a list. A key marked *secret* can also\nbe read from a file: `database.url` from the one that \
         `database.url_file` or `SEALWRIGHT_DATABASE__URL_FILE` names. A file\nthat holds a secret is refused while others \
         than its owner can read it. Relative paths start at the working directory. Unknown keys and\nunknown \
         `SEALWRIGHT_…` variables are errors.\n\n\
         | Key | Type | Default | Meaning |\n| --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let code = |text: String| if text.is_empty() { "–".to_owned() } else { format!("`{text}`") };
        let allowed = Some((key.allowed)()).filter(|text| !text.is_empty()).map(|text| format!(" ({text})"));
        let secret = if key.secret { ", *secret*" } else { "" };
        let kind = format!("{}{}{secret}", (key.kind)(), allowed.unwrap_or_default());
        let help = key.help.trim().replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | {kind} | {} | {help} |", key.name, code((key.default)()));
    }
    text
}
