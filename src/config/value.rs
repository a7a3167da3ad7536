//! Values: how each type of setting is read from a file or a variable, and what it allows.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use zeroize::Zeroize as _;

use super::LogFormat;
use crate::secret::Secret;
use crate::wire::{Algorithm, EdDsaName, EndGrants};

/// A number for all algorithms, and others for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByAlgorithm {
    all: u32,
    but: Vec<(Algorithm, u32)>,
}

impl ByAlgorithm {
    /// The same number for all.
    pub fn all(number: u32) -> Self {
        Self { all: number, but: Vec::new() }
    }

    /// The number of one algorithm.
    pub fn of(&self, algorithm: Algorithm) -> u32 {
        self.but.iter().find(|(other, _)| *other == algorithm).map_or(self.all, |(_, number)| *number)
    }
}

impl fmt::Display for ByAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.all)?;
        self.but.iter().try_for_each(|(algorithm, number)| write!(f, ", {algorithm} {number}"))
    }
}

/// A value as its source holds it. It has no `Debug`, and leaves nothing behind in memory: it may be a secret.
pub enum Raw {
    /// The text of a variable, which has no type yet.
    Variable(String),
    /// A TOML string, or the content of a secret's file.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Raw>),
    /// A TOML value of a kind that no key takes; the words name it.
    Other(&'static str),
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Self::Variable(text) | Self::Text(text) = self {
            text.zeroize();
        }
    }
}

impl Raw {
    fn what(&self) -> &'static str {
        match self {
            Self::Variable(_) | Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Other(what) => what,
        }
    }

    fn text(&self) -> Result<&str, String> {
        match self {
            Self::Variable(text) | Self::Text(text) => Ok(text),
            other => Err(format!("must be a string, but is {}", other.what())),
        }
    }
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// Whether values are never shown, and may be given as the path of a file.
    const SECRET: bool = false;

    /// The type's name in the reference.
    fn kind() -> String;

    /// The name of several of it.
    fn kinds() -> String {
        format!("{}s", Self::kind())
    }

    /// Reads a value; an `Err` says what is wrong with it, and quotes it only if it is no secret.
    fn read(raw: &Raw) -> Result<Self, String>;

    /// The value as TOML; empty for nothing and for secrets.
    fn show(&self) -> String;
}

macro_rules! integers {
    ($($int:ty),+) => { $(
        impl Setting for $int {
            fn kind() -> String {
                "integer".to_owned()
            }

            fn read(raw: &Raw) -> Result<Self, String> {
                let number = match raw {
                    Raw::Integer(number) => *number,
                    Raw::Variable(text) => text.trim().parse().map_err(|_| format!("{text:?} is not an integer"))?,
                    other => return Err(format!("must be an integer, but is {}", other.what())),
                };
                Self::try_from(number).map_err(|_| format!("{number} is out of range"))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+ };
}
integers!(u32, usize);

impl Setting for ByAlgorithm {
    fn kind() -> String {
        "integer, or list of one and of \"ALG=integer\"".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        let of_text = |item: &str| -> Result<(Algorithm, u32), String> {
            let wrong = || format!("{item:?} is not ALG=integer, such as \"RS256=86400\"");
            let (algorithm, number) = item.split_once('=').ok_or_else(wrong)?;
            let number = u32::read(&Raw::Variable(number.to_owned()))?;
            Ok((algorithm.trim().parse().map_err(|_| wrong())?, number))
        };
        match raw {
            Raw::List(items) => {
                let [all, but @ ..] = items.as_slice() else { return Err("is an empty list".to_owned()) };
                let but = but.iter().map(|item| of_text(item.text()?)).collect::<Result<_, _>>()?;
                Ok(Self { all: u32::read(all)?, but })
            }
            Raw::Variable(text) => {
                let mut items = text.split(',').map(str::trim);
                let all = u32::read(&Raw::Variable(items.next().unwrap_or_default().to_owned()))?;
                Ok(Self { all, but: items.map(of_text).collect::<Result<_, _>>()? })
            }
            one => u32::read(one).map(Self::all),
        }
    }

    fn show(&self) -> String {
        if self.but.is_empty() {
            return self.all.to_string();
        }
        let but = self.but.iter().map(|(algorithm, number)| format!("\"{algorithm}={number}\""));
        format!("[{}, {}]", self.all, but.collect::<Vec<_>>().join(", "))
    }
}

macro_rules! words {
    ($($word:ty),+) => { $(
        impl Setting for $word {
            fn kind() -> String {
                Self::ALL.iter().map(Setting::show).collect::<Vec<_>>().join(" or ")
            }

            fn kinds() -> String {
                Self::kind()
            }

            fn read(raw: &Raw) -> Result<Self, String> {
                let text = raw.text()?;
                text.parse().map_err(|_| format!("{text:?} is not {}", Self::kind()))
            }

            fn show(&self) -> String {
                format!("{:?}", self.as_str())
            }
        }
    )+ };
}
words!(Algorithm, EdDsaName, EndGrants, LogFormat);

impl Setting for bool {
    fn kind() -> String {
        "boolean".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Boolean(value) => Ok(*value),
            Raw::Variable(text) => {
                text.trim().parse().map_err(|_| format!("{text:?} is not a boolean; allowed: true, false"))
            }
            other => Err(format!("must be true or false, but is {}", other.what())),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn kind() -> String {
        "string".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text().map(ToOwned::to_owned)
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Setting for PathBuf {
    fn kind() -> String {
        "path".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw.text()? {
            "" => Err("must be a path, but is empty".to_owned()),
            path => Ok(path.into()),
        }
    }

    fn show(&self) -> String {
        format!("{:?}", self.display().to_string())
    }
}

impl Setting for Secret {
    const SECRET: bool = true;

    fn kind() -> String {
        "string".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text().map(Self::new)
    }

    fn show(&self) -> String {
        String::new()
    }
}

impl Setting for IpNet {
    fn kind() -> String {
        "network".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text()?;
        let address = text.parse::<IpAddr>().map(Self::from);
        let network = address.or_else(|_| text.parse::<Self>());
        network.map(|network| network.trunc()).map_err(|_| {
            format!(
                "{text:?} is not a network; allowed: an address with a prefix length, such as 10.0.0.0/8 or fd00::/8"
            )
        })
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

impl<T: Setting> Setting for Option<T> {
    const SECRET: bool = T::SECRET;

    fn kind() -> String {
        T::kind()
    }

    /// An empty variable is one that is not set: container set-ups cannot always leave a variable out.
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Variable(text) if text.is_empty() => Ok(None),
            raw => T::read(raw).map(Some),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, Setting::show)
    }
}

impl<T: Setting> Setting for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn kind() -> String {
        format!("list of {}", T::kinds())
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::List(items) => items.iter().map(T::read).collect(),
            Raw::Variable(text) if text.trim().is_empty() => Ok(Self::new()),
            Raw::Variable(text) => {
                text.split(',').map(|item| T::read(&Raw::Variable(item.trim().to_owned()))).collect()
            }
            other => Err(format!("must be a list, such as [\"…\"], but is {}", other.what())),
        }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Setting::show).collect::<Vec<_>>().join(", "))
    }
}

type Check<T> = dyn Fn(&T) -> Result<(), String>;

/// What a key allows beyond its type.
pub struct Rule<T> {
    /// The allowed values in words; empty when the type says it all.
    pub allowed: String,
    check: Box<Check<T>>,
}

impl<T: 'static> Rule<T> {
    /// Allows what `check` lets pass; its `Err` says what is wrong.
    pub fn new(allowed: impl Into<String>, check: impl Fn(&T) -> Result<(), String> + 'static) -> Self {
        Self { allowed: allowed.into(), check: Box::new(check) }
    }

    /// Allows every value of the type.
    pub fn any() -> Self {
        Self::new("", |_| Ok(()))
    }

    /// Whether `value` is allowed; an `Err` says what is wrong with it.
    pub fn check(&self, value: &T) -> Result<(), String> {
        (self.check)(value)
    }
}

/// Allows the numbers of `range`.
pub fn within<T: PartialOrd + Display + 'static>(range: RangeInclusive<T>) -> Rule<T> {
    Rule::new(format!("{} to {}", range.start(), range.end()), move |value| {
        if range.contains(value) { Ok(()) } else { Err(format!("{value} is out of range")) }
    })
}

/// Allows the values of `set`.
pub fn one_of<T: PartialEq + Display>(set: &'static [T]) -> Rule<T> {
    Rule::new(set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "), move |value| {
        if set.contains(value) { Ok(()) } else { Err(format!("{value} is not among the allowed values")) }
    })
}

/// Holds a value to `rule` if there is one.
pub fn if_set<T: 'static>(rule: Rule<T>) -> Rule<Option<T>> {
    Rule::new(rule.allowed.clone(), move |value: &Option<T>| value.as_ref().map_or(Ok(()), |value| rule.check(value)))
}

/// Holds every item of a list to `rule`.
pub fn each<T: 'static>(rule: Rule<T>) -> Rule<Vec<T>> {
    Rule::new(rule.allowed.clone(), move |items: &Vec<T>| items.iter().try_for_each(|item| rule.check(item)))
}

/// Holds the number of every algorithm to `rule`.
pub fn for_each_algorithm(rule: Rule<u32>) -> Rule<ByAlgorithm> {
    Rule::new(rule.allowed.clone(), move |numbers: &ByAlgorithm| {
        rule.check(&numbers.all)?;
        numbers.but.iter().try_for_each(|(_, number)| rule.check(number))
    })
}
