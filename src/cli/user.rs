//! `sealwright user`: people, one at a time. When a command returns, running servers act on it.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::database;
use super::dev;
use super::issuer::stdin;
use super::keys::rfc3339;
use super::output::{Failure, give, give_json, json, say};
use super::source::Source;
use crate::app::{self, Opened};
use crate::audit::{self, Action, Actor, Event};
use crate::clock::Clock;
use crate::config::Config;
use crate::password::PasswordHasher;
use crate::secret::Secret;
use crate::store::users::{self as rows, UserRow};
use crate::store::{Committed, StoreError};
use crate::users::{self, Profile, User, password, username_key};
use crate::wire::ManagedBy;

/// People of one page of a list.
const PAGE: i64 = 500;

/// People: add, list, reset their passwords, switch them off and on
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Add a person
    #[command(after_help = "\
Examples:
  sealwright user add ada --dev --email ada@example.com --name \"Ada Lovelace\" --generate
  sealwright user add ada --config sealwright.toml --group staff --group admins
  sealwright user add ada --password-file /run/secrets/ada

The password is asked for (twice), read from the file, or from stdin when that is no terminal. With --generate one is
made, and shown this once on stdout.")]
    Add {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        password: PasswordFrom,
        /// Their e-mail address
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// Their name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// A group that they are in; may be given several times
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Give a person another password; they are signed out everywhere, and applications lose their access
    #[command(after_help = "\
Examples:
  sealwright user reset ada --dev --generate
  sealwright user reset ada --config sealwright.toml")]
    Reset {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        password: PasswordFrom,
    },
    /// Switch a person off: they are signed out everywhere, and get no tokens
    #[command(after_help = "\
Examples:
  sealwright user disable ada --config sealwright.toml")]
    Disable {
        #[command(flatten)]
        who: Who,
    },
    /// Switch a person on again; they sign in anew
    #[command(after_help = "\
Examples:
  sealwright user enable ada --config sealwright.toml")]
    Enable {
        #[command(flatten)]
        who: Who,
    },
    /// List people, by username
    #[command(after_help = "\
Examples:
  sealwright user list --dev
  sealwright user list --config sealwright.toml --json")]
    List {
        #[command(flatten)]
        source: Source,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Whom a command is about.
#[derive(clap::Args)]
struct Who {
    /// What they sign in by
    #[arg(value_name = "USERNAME")]
    username: String,
    #[command(flatten)]
    source: Source,
    /// Give the result as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Where a password comes from.
#[derive(clap::Args)]
struct PasswordFrom {
    /// The file that holds the password, or - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "generate")]
    password_file: Option<PathBuf>,
    /// Make a password and show it this once
    #[arg(long)]
    generate: bool,
}

/// What `--json` gives of a person; times as RFC 3339, in UTC.
#[derive(Serialize)]
struct Told {
    sub: String,
    username: String,
    disabled: bool,
    groups: Vec<String>,
    email: Option<String>,
    name: Option<String>,
    managed_by: String,
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

impl Told {
    fn of(row: &UserRow) -> Result<Self, StoreError> {
        let User { sub, username, profile, disabled, managed_by, .. } = User::from_row(row)?;
        let text = |claim: &str| profile.text(claim).map(str::to_owned);
        Ok(Self {
            email: text("email"),
            name: text("name"),
            groups: profile.groups,
            managed_by: managed_by.to_string(),
            created_at: (row.created_at > 0).then(|| rfc3339(row.created_at)),
            password: None,
            sub,
            username,
            disabled,
        })
    }
}

/// `sealwright user`.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Add { who, password, email, name, groups } => {
            let texts = [("email", email), ("name", name)];
            let claims = texts.into_iter().filter_map(|(claim, text)| Some((claim.to_owned(), Value::from(text?))));
            add(who, &password, Profile { groups, claims: claims.collect() }).await
        }
        Command::Reset { who, password } => reset(who, &password).await,
        Command::Disable { who } => set_disabled(who, true).await,
        Command::Enable { who } => set_disabled(who, false).await,
        Command::List { source, json } => list(&source, json).await,
    }
}

async fn open(source: &Source) -> Result<(Config, Opened), Failure> {
    let config = source.load_valid()?;
    if source.dev {
        dev::make_folder()?;
    }
    let opened = app::open(&config, Clock::system(), false).await?;
    opened.notes.iter().for_each(say);
    Ok((config, opened))
}

async fn add(who: Who, from: &PasswordFrom, profile: Profile) -> Result<(), Failure> {
    let key = username_key(&who.username).map_err(|wrong| Failure::usage(format!("USERNAME {wrong}")))?;
    if let Some(wrong) = profile.check().into_iter().next() {
        return Err(Failure::usage(format!("{}: {}", wrong.field, wrong.text)));
    }
    let (config, opened) = open(&who.source).await?;
    let password = from.get(&config, profile.own_words(&who.username))?;
    let hash = PasswordHasher::new(app::hash_settings(&config))?.hash(&password, None).await?;
    let row = UserRow {
        sub: users::new_sub()?,
        username: who.username.trim().to_owned(),
        username_key: key,
        profile: serde_json::to_string(&profile)?,
        password: Some(hash),
        password_changed_at: None,
        password_import: None,
        disabled: false,
        managed_by: ManagedBy::Admin.to_string(),
        created_at: 0,
        updated_at: 0,
    };
    let new = row.clone();
    let added = opened.db.write(move |tx| {
        Box::pin(async move {
            rows::add(tx, &new).await?;
            let saved = Event::UserSaved { action: Action::Create, fields: Vec::new() };
            audit::record(tx, &Actor::command_line(), &new.sub, &saved)
        })
    });
    match added.await {
        Err(cause) if cause.is_conflict() => {
            let text =
                format!("there is a user {} already; `sealwright user reset` sets another password", row.username);
            return Err(Failure::failed(text));
        }
        added => finish(&opened, added?).await?,
    }
    tell(&row, from.generate.then_some(&password), who.json, "added")
}

async fn reset(who: Who, from: &PasswordFrom) -> Result<(), Failure> {
    let (config, opened) = open(&who.source).await?;
    let row = find(&opened, &who.username).await?;
    let password = from.get(&config, User::from_row(&row)?.profile.own_words(&row.username))?;
    let hash = PasswordHasher::new(app::hash_settings(&config))?.hash(&password, None).await?;
    let sub = row.sub.clone();
    let set = opened
        .db
        .write(move |tx| Box::pin(async move { users::set_password(tx, &Actor::command_line(), &sub, &hash).await }));
    finish(&opened, set.await?).await?;
    tell(&row, from.generate.then_some(&password), who.json, "has another password, and is signed out everywhere")
}

async fn set_disabled(who: Who, disabled: bool) -> Result<(), Failure> {
    let (_, opened) = open(&who.source).await?;
    let mut row = find(&opened, &who.username).await?;
    let sub = row.sub.clone();
    let set = opened.db.write(move |tx| {
        Box::pin(async move { users::set_disabled(tx, &Actor::command_line(), &sub, disabled).await })
    });
    let set = set.await?;
    let word = match (disabled, set.value) {
        (true, true) => "is switched off, and signed out everywhere",
        (true, false) => "was switched off already",
        (false, true) => "is switched on",
        (false, false) => "was switched on already",
    };
    finish(&opened, set).await?;
    row.disabled = disabled;
    tell(&row, None, who.json, word)
}

/// There may be very many: they are read in pages, and given as they come.
async fn list(source: &Source, as_json: bool) -> Result<(), Failure> {
    let db = database::open_ready(&source.load()?).await?;
    let mut after = String::new();
    // What is still to be given: in JSON all but the last have a comma behind them.
    let mut held = if as_json { "[".to_owned() } else { line_of("SUB", "USERNAME", "STATE", "E-MAIL") };
    loop {
        let behind = after.clone();
        let page = db.read(move |conn| Box::pin(async move { rows::page(conn, &behind, PAGE).await })).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.username_key);
        for person in &page {
            let person = Told::of(person)?;
            let next = if as_json {
                format!("  {}", json(&person)?.replace('\n', "\n  "))
            } else {
                let state = if person.disabled { "disabled" } else { "enabled" };
                line_of(&person.sub, &person.username, state, person.email.as_deref().unwrap_or("–"))
            };
            let comma = if as_json && held != "[" { "," } else { "" };
            give(format_args!("{}{comma}", std::mem::replace(&mut held, next)))?;
        }
    }
    match held.as_str() {
        "[" => give("[]"),
        last if as_json => give(format_args!("{last}\n]")),
        last => give(last),
    }
}

fn line_of(sub: &str, username: &str, state: &str, email: &str) -> String {
    format!("{sub:<36}  {username:<24}  {state:<8}  {email}")
}

async fn find(opened: &Opened, username: &str) -> Result<UserRow, Failure> {
    let key = username_key(username).map_err(|wrong| Failure::usage(format!("USERNAME {wrong}")))?;
    let found = opened.db.read(move |conn| Box::pin(async move { rows::by_username(conn, &key).await })).await?;
    found.ok_or_else(|| Failure::failed(format!("there is no user {}; see `sealwright user list`", username.trim())))
}

/// Waits until running servers act on it.
async fn finish<T>(opened: &Opened, committed: Committed<T>) -> Result<(), Failure> {
    database::acted_on(&opened.db, &opened.clock, committed.seq).await
}

fn tell(row: &UserRow, made: Option<&Secret>, json: bool, word: &str) -> Result<(), Failure> {
    if json {
        return give_json(&Told { password: made.map(|made| made.expose().to_owned()), ..Told::of(row)? });
    }
    if let Some(made) = made {
        give(made.expose())?;
    }
    say(format_args!("{} {word}.", row.username));
    Ok(())
}

impl PasswordFrom {
    /// As it is to be hashed.
    fn get(&self, config: &Config, mut own: Vec<String>) -> Result<Secret, Failure> {
        if self.generate {
            return Ok(password::generate()?);
        }
        let given = match self.password_file.as_deref() {
            Some(path) if path != Path::new("-") => {
                let read = std::fs::read_to_string(path);
                line(read.map_err(|cause| Failure::failed(format!("cannot read {}: {cause}", path.display())))?)
            }
            None if std::io::stdin().is_terminal() => asked()?,
            _ => line(stdin().map_err(|cause| Failure::failed(format!("cannot read stdin: {cause}")))?),
        };
        own.push(config.branding.name.clone());
        own.extend(config.issuer.as_ref().map(ToString::to_string));
        password::check(&given, own.iter().map(String::as_str), app::min_password_length(config))
            .map_err(|weak| Failure::failed(format!("the password {weak}")))
    }
}

fn line(text: String) -> Secret {
    let text = zeroize::Zeroizing::new(text);
    Secret::new(text.trim_end_matches(['\r', '\n']))
}

/// Asks twice at the terminal, without showing what is typed.
fn asked() -> Result<Secret, Failure> {
    let _silence = Silence::begin();
    let (first, second) = (prompt("Password: ")?, prompt("The same again: ")?);
    if crate::secret::equal(first.expose().as_bytes(), second.expose().as_bytes()) {
        return Ok(first);
    }
    Err(Failure::failed("the two passwords differ; nothing was changed"))
}

fn prompt(text: &str) -> Result<Secret, Failure> {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
    let mut typed = String::new();
    let read = std::io::stdin().read_line(&mut typed);
    let _ = writeln!(stderr);
    match read {
        Ok(_) => Ok(line(typed)),
        Err(cause) => Err(Failure::failed(format!("cannot read the password: {cause}"))),
    }
}

/// The terminal without echo; as it was when dropped.
struct Silence;

impl Silence {
    fn begin() -> Self {
        stty("-echo");
        Self
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        stty("echo");
    }
}

/// A terminal that cannot be silenced still takes passwords.
fn stty(argument: &str) {
    let _ = std::process::Command::new("stty").arg(argument).stderr(std::process::Stdio::null()).status();
}
