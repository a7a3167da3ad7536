//! `--dev`: the configuration, made in memory, and the demo data. Everything is in one folder of the working directory.

mod people;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::output::Failure;
use crate::clients::ClientMetadata;
use crate::clients::secret::digest_to_text;
use crate::config::{Config, DatabaseUrl, Errors, Issuer, Listen, LogFormat, Mode, Origin, Problem, environment};
use crate::cx::Services;
use crate::nodes;
use crate::resources::ResourceSettings;
use crate::secret::{NoRandomness, Prefix, Secret, random};
use crate::store::clients::{ClientRow, CredentialRow, NewCredential};
use crate::store::resources::ResourceRow;
use crate::store::{StoreError, Tx, clients, resources};
use crate::wire::{CredentialKind, GrantType, ManagedBy};
use people::{Login, WebClient};

/// Where the data is.
const FOLDER: &str = "sealwright-dev";
/// The demo API. Names of its own, so that an `apply` file that somebody tries out does not collide with them.
const RESOURCE: &str = "https://demo.example.com";
const SCOPES: &[(&str, &str)] = &[("demo:read", "Read the demo data"), ("demo:write", "Change the demo data")];
const CLIENT: &str = "demo-service";
const GATEWAY: &str = "demo-gateway";
const WEB_CLIENT: &str = "demo-web";
/// The label of the credential that dev.json has the secret of.
const LABEL: &str = "dev";

/// What others read the server's whereabouts and the demo clients from: `sealwright-dev/dev.json`.
#[derive(Serialize, Deserialize)]
pub struct DevFile {
    /// The issuer.
    pub issuer: String,
    /// The demo API's identifier: the audience of its tokens.
    pub resource: String,
    /// A service that gets tokens by client credentials.
    pub client: Credentials,
    /// A gateway that serves the API and so may introspect its tokens.
    pub gateway: Credentials,
    /// Somebody who can sign in. Files of earlier releases have none.
    #[serde(default)]
    pub user: Option<Login>,
    /// An application that people sign in to. Files of earlier releases have none.
    #[serde(default)]
    pub web_client: Option<WebClient>,
}

/// By which a client authenticates, with `client_secret_basic`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// Its id.
    pub client_id: String,
    /// Its secret.
    #[serde(serialize_with = "expose")]
    pub client_secret: Secret,
}

fn expose<S: serde::Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose())
}

/// The configuration of commands beside `serve --dev`: its issuer is the one that dev.json tells.
pub fn config(env: Vec<(String, String)>) -> Result<Config, Errors> {
    let told = read(&path("dev.json")).ok().flatten().and_then(|file| Issuer::parse(&file.issuer).ok());
    made(env, told)
}

/// The configuration of `serve --dev`: its issuer follows from `http.listen`.
pub fn serve_config() -> Result<Config, Failure> {
    let config = made(environment(), None)?;
    match config.validate(Mode::Development) {
        problems if problems.is_empty() => Ok(config),
        problems => Err(Errors(problems).into()),
    }
}

fn made(env: Vec<(String, String)>, issuer: Option<Issuer>) -> Result<Config, Errors> {
    let mut config = Config::load(None, env)?;
    let is_set = |config: &Config, key: &str| config.origin(key) != Origin::Default;
    let problem = |config: &Config, key: &str, text: String| {
        Errors(vec![Problem { key: key.to_owned(), origin: config.origin(key), text }])
    };
    // Somebody who has a real server's variables set would otherwise get demo clients into its database.
    for key in ["database.url", "master_key.file", "master_key.value"] {
        if is_set(&config, key) {
            let text = format!("--dev keeps its data and its key in {FOLDER}/; unset it, or run without --dev");
            return Err(problem(&config, key, text));
        }
    }
    config.database.url = DatabaseUrl::Sqlite(path("sealwright.db"));
    if config.issuer.is_none() {
        let found = issuer.map_or_else(|| issuer_at(&config.http.listen), Ok);
        config.issuer = Some(found.map_err(|text| problem(&config, "http.listen", text))?);
    }
    if !is_set(&config, "log.format") {
        config.log.format = LogFormat::Pretty;
    }
    if !is_set(&config, "log.requests") {
        config.log.requests = false;
    }
    Ok(config)
}

/// The issuer of a server that listens there: the first address, by plain http.
fn issuer_at(listen: &[Listen]) -> Result<Issuer, String> {
    let Some(first) = listen.first() else {
        return Err("is empty; --dev serves plain HTTP. Give it an address, such as localhost:8080".to_owned());
    };
    match first.address().port() {
        0 => Err("has port 0, and the issuer needs a known one; give a port, or set SEALWRIGHT_ISSUER".to_owned()),
        80 => Issuer::parse(&format!("http://{}", first.to_string().trim_end_matches(":80"))),
        _ => Issuer::parse(&format!("http://{first}")),
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Makes the folder, for its owner only.
pub fn make_folder() -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(FOLDER).map_err(|cause| {
        Failure::failed(format!(
            "the folder {FOLDER} cannot be made here: {cause}. Go to a folder that you may write to"
        ))
    })?;
    // Somebody else's folder, or one that others may write to, is where they could lay traps.
    let folder = fs::symlink_metadata(FOLDER)?;
    if folder.is_dir() && folder.uid() == rustix::process::geteuid().as_raw() && folder.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!("{FOLDER} here is not a folder of yours alone; remove it, or go to another folder")))
}

/// dev.json, which must be there.
pub fn file() -> Result<DevFile, Failure> {
    let path = path("dev.json");
    read(&path)?.ok_or_else(|| {
        Failure::failed(format!(
            "there is no {} here; run `sealwright serve --dev` in this folder first",
            path.display()
        ))
    })
}

fn read(path: &Path) -> Result<Option<DevFile>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Failure::failed(format!("cannot read {}: {cause}", path.display()))),
    };
    let broken = |what: &dyn std::fmt::Display| {
        let path = path.display();
        Failure::failed(format!("{path}: {what}. Remove the file, and `serve --dev` makes a new one with new secrets"))
    };
    let file: DevFile = serde_json::from_str(&text).map_err(|cause| broken(&cause))?;
    let web_client = file.web_client.as_ref().map(|client| ("web_client", &client.credentials));
    for (name, credentials) in [("client", &file.client), ("gateway", &file.gateway)].into_iter().chain(web_client) {
        if !Prefix::ClientSecret.matches(credentials.client_secret.expose()) {
            return Err(broken(&format_args!("{name}.client_secret is not one that Sealwright made")));
        }
    }
    Ok(Some(file))
}

fn write(path: &Path, file: &DevFile) -> io::Result<()> {
    let text = serde_json::to_string_pretty(file)?;
    // Beside it first: whoever reads it meanwhile sees the old one or the new one, whole.
    let new = path.with_extension("json.new");
    let _ = fs::remove_file(&new);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(out, "{text}")?;
    out.sync_all()?;
    fs::rename(&new, path)
}

/// Brings the demo data and dev.json together. Whichever of the two was lost is made again; what is there stays.
pub async fn demo(services: &Services) -> Result<DevFile, Failure> {
    let path = path("dev.json");
    let kept = read(&path)?;
    let fresh = |client_id: &str| -> Result<Credentials, NoRandomness> {
        Ok(Credentials { client_id: client_id.to_owned(), client_secret: Prefix::ClientSecret.generate()? })
    };
    let (kept_user, kept_web) = kept.as_ref().map_or((None, None), |file| (file.user.clone(), file.web_client.clone()));
    let user = kept_user.map_or_else(Login::generate, Ok)?;
    let web_client = WebClient::new(kept_web.map_or_else(|| fresh(WEB_CLIENT), |client| Ok(client.credentials))?);
    let file = DevFile {
        issuer: services.issuer.to_string(),
        resource: RESOURCE.to_owned(),
        client: kept.as_ref().map_or_else(|| fresh(CLIENT), |file| Ok(file.client.clone()))?,
        gateway: kept.as_ref().map_or_else(|| fresh(GATEWAY), |file| Ok(file.gateway.clone()))?,
        user: Some(user.clone()),
        web_client: Some(web_client.clone()),
    };
    let of_client = ClientMetadata {
        client_name: Some("Demo service".into()),
        grant_types: [GrantType::ClientCredentials].into(),
        scope: SCOPES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ").parse()?,
        resources: [RESOURCE.to_owned()].into(),
        ..ClientMetadata::default()
    };
    let of_gateway = ClientMetadata {
        client_name: Some("Demo gateway".into()),
        grant_types: Box::default(),
        serves: [RESOURCE.to_owned()].into(),
        ..ClientMetadata::default()
    };
    let settings = ResourceSettings { name: Some("Demo API".to_owned()), ..ResourceSettings::default() };
    let settings = serde_json::to_string(&settings)?;
    let wanted = [
        Wanted::new(&file.client, &of_client)?,
        Wanted::new(&file.gateway, &of_gateway)?,
        Wanted::new(&web_client.credentials, &web_client.metadata()?)?,
    ];
    let saved = services.db.write(move |tx| {
        Box::pin(async move {
            resource(tx, settings).await?;
            for wanted in wanted {
                wanted.save(tx).await?;
            }
            Ok(())
        })
    });
    if let Some(seq) = saved.await?.seq {
        nodes::acted_on(services, seq).await?;
    }
    user.save(services).await?;
    // After the database: a secret in the file always works.
    write(&path, &file).map_err(|cause| Failure::failed(format!("cannot write {}: {cause}", path.display())))?;
    Ok(file)
}

async fn resource(tx: &mut Tx, settings: String) -> Result<(), StoreError> {
    let (resources, _) = resources::list(tx).await?;
    if resources.iter().any(|resource| resource.identifier == RESOURCE) {
        return Ok(());
    }
    let managed_by = ManagedBy::System.to_string();
    let row = ResourceRow { identifier: RESOURCE.to_owned(), settings, managed_by };
    resources::save(tx, &row).await?;
    for (name, words) in SCOPES {
        resources::add_scope(tx, RESOURCE, name, words).await?;
    }
    Ok(())
}

/// A demo client and its secret, ready for the database.
struct Wanted {
    client_id: String,
    metadata: String,
    secret: NewCredential,
}

impl Wanted {
    fn new(credentials: &Credentials, metadata: &ClientMetadata) -> Result<Self, Failure> {
        let secret = NewCredential {
            id: random()?,
            kind: CredentialKind::GeneratedSecret.as_str(),
            label: LABEL.to_owned(),
            value: digest_to_text(&credentials.client_secret),
            expires_at: None,
        };
        Ok(Self { client_id: credentials.client_id.clone(), metadata: serde_json::to_string(metadata)?, secret })
    }

    /// Adds the client if it is missing, and its secret if that would not be accepted.
    async fn save(self, tx: &mut Tx) -> Result<(), StoreError> {
        let Self { client_id, metadata, secret } = self;
        let found = clients::find(tx, &client_id).await?;
        if found.is_none() {
            let row = ClientRow {
                client_id: client_id.clone(),
                metadata,
                disabled: false,
                managed_by: ManagedBy::System.to_string(),
            };
            clients::save(tx, &row, &[]).await?;
        }
        let credentials = found.map(|(_, credentials)| credentials).unwrap_or_default();
        let works =
            |known: &CredentialRow| known.value == secret.value && known.expires_at.is_none_or(|end| tx.now() < end);
        if credentials.iter().any(works) {
            return Ok(());
        }
        // Labels are unique, and so are the secrets of dev.json: what has the one or the other gives way.
        for old in credentials.iter().filter(|known| known.label == LABEL || known.value == secret.value) {
            clients::remove_credential(tx, &client_id, &old.id).await?;
        }
        clients::add_credential(tx, &client_id, &secret).await
    }
}

impl DevFile {
    /// Lines to paste into a shell: get a token, have it described, take it back. `program` is how we were called.
    pub fn lines(&self, program: &str) -> String {
        let Self { issuer, client, gateway, user: demo, .. } = self;
        let user = |who: &Credentials| format!("-u {}:{}", who.client_id, who.client_secret.expose());
        let (client, gateway) = (user(client), user(gateway));
        let program = quoted(program);
        let sign_in = demo.as_ref().map_or_else(String::new, |Login { username, password }| {
            let password = password.expose();
            format!(
                "\nSign in to the demo application {WEB_CLIENT} as {username}, password {password}:\n\n\
                 {program} login --dev\n"
            )
        });
        format!(
            "{sign_in}\n\
             The demo API {RESOURCE}, its clients and the demo user are in {FOLDER}/dev.json. In another terminal, in this folder:\n\
             \n\
             {program} token --dev --show\n\
             \n\
             Or with curl alone: get a token, have the gateway ask about it, take it back, ask again:\n\
             \n\
             token=$(curl -s {client} -d grant_type=client_credentials -d scope=demo:read {issuer}/oauth2/token \
             | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/'); echo \"$token\"\n\
             curl -s {gateway} -d token=\"$token\" {issuer}/oauth2/introspect; echo\n\
             curl -s {client} -d token=\"$token\" {issuer}/oauth2/revoke\n\
             curl -s {gateway} -d token=\"$token\" {issuer}/oauth2/introspect; echo\n"
        )
    }
}

/// `word` as one word of a shell.
fn quoted(word: &str) -> String {
    if word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+,:@".contains(&byte)) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn issuer(pairs: &[(&str, &str)]) -> String {
        made(env(pairs), None).unwrap().issuer.unwrap().to_string()
    }

    fn refused(pairs: &[(&str, &str)]) -> String {
        made(env(pairs), None).map(|config| format!("{config:?}")).unwrap_err().to_string()
    }

    #[test]
    fn the_issuer_follows_the_listener() {
        assert_eq!(issuer(&[]), "http://localhost:8080");
        assert_eq!(issuer(&[("SEALWRIGHT_HTTP__LISTEN", "127.0.0.1:18080,[::1]:18080")]), "http://127.0.0.1:18080");
        assert_eq!(issuer(&[("SEALWRIGHT_HTTP__LISTEN", "[::1]:81")]), "http://[::1]:81");
        assert_eq!(issuer(&[("SEALWRIGHT_HTTP__LISTEN", "localhost:80")]), "http://localhost");
        let both = [("SEALWRIGHT_HTTP__LISTEN", "localhost:81"), ("SEALWRIGHT_ISSUER", "http://localhost:82/a")];
        assert_eq!(issuer(&both), "http://localhost:82/a");
        assert!(
            refused(&[("SEALWRIGHT_HTTP__LISTEN", "localhost:0")])
                .starts_with("http.listen (SEALWRIGHT_HTTP__LISTEN):")
        );
        assert!(refused(&[("SEALWRIGHT_HTTP__LISTEN", "")]).starts_with("http.listen"));
        let told = Issuer::parse("http://localhost:9").ok();
        assert_eq!(made(Vec::new(), told).unwrap().issuer.unwrap().as_str(), "http://localhost:9");
    }

    #[test]
    fn dev_differs_in_folder_and_log() {
        let config = made(Vec::new(), None).unwrap();
        assert!(
            matches!(&config.database.url, DatabaseUrl::Sqlite(path) if path.as_os_str() == "sealwright-dev/sealwright.db")
        );
        assert!(!config.log.requests && config.log.format == LogFormat::Pretty);
        assert!(config.validate(Mode::Development).is_empty());
        let logs = env(&[("SEALWRIGHT_LOG__REQUESTS", "true"), ("SEALWRIGHT_LOG__FORMAT", "json")]);
        let config = made(logs, None).unwrap();
        assert!(config.log.requests && config.log.format == LogFormat::Json);
    }

    #[test]
    fn dev_does_not_touch_another_database() {
        let text = refused(&[("SEALWRIGHT_DATABASE__URL", "postgres://u:hunter2@db/prod")]);
        assert!(text.starts_with("database.url (SEALWRIGHT_DATABASE__URL): --dev keeps"), "{text}");
        assert!(!text.contains("hunter2"));
    }

    fn sample() -> DevFile {
        let credentials = |client_id: &str| Credentials {
            client_id: client_id.to_owned(),
            client_secret: Prefix::ClientSecret.generate().unwrap(),
        };
        DevFile {
            issuer: "http://localhost:8080".to_owned(),
            resource: RESOURCE.to_owned(),
            client: credentials(CLIENT),
            gateway: credentials(GATEWAY),
            user: Login::generate().ok(),
            web_client: Some(WebClient::new(credentials(WEB_CLIENT))),
        }
    }

    #[test]
    fn dev_json_has_these_names_and_is_its_owners() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("sealwright-dev-{:x}", u128::from_be_bytes(random().unwrap())));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("dev.json");
        assert!(read(&path).unwrap().is_none());
        let file = sample();
        write(&path, &file).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for name in [
            "/issuer",
            "/resource",
            "/client/client_id",
            "/client/client_secret",
            "/gateway/client_id",
            "/gateway/client_secret",
            "/user/username",
            "/user/password",
            "/web_client/client_id",
            "/web_client/client_secret",
            "/web_client/redirect_uris/0",
        ] {
            assert!(json.pointer(name).is_some_and(serde_json::Value::is_string), "{name}");
        }
        let again = read(&path).unwrap().unwrap();
        assert_eq!(again.client.client_secret.expose(), file.client.client_secret.expose());
        fs::write(&path, r#"{"issuer":"http://localhost:8080"}"#).unwrap();
        assert!(read(&path).is_err());
        let foreign = serde_json::to_string(&file).unwrap().replace("sws_", "abc_");
        fs::write(&path, foreign).unwrap();
        assert!(read(&path).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_lines_name_what_is_there() {
        let file = sample();
        let lines = file.lines("/my folder/sealwright");
        assert!(lines.contains("'/my folder/sealwright' token --dev --show\n"));
        assert!(
            lines.contains(file.client.client_secret.expose()) && lines.contains(file.gateway.client_secret.expose())
        );
        assert!(lines.contains(r#"sed 's/.*"access_token":"\([^"]*\)".*/\1/'"#), "{lines}");
    }
}
