//! The demo person and the application that they sign in to.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::output::Failure;
use super::{Credentials, RESOURCE, SCOPES, expose};
use crate::clients::ClientMetadata;
use crate::cx::Services;
use crate::secret::{NoRandomness, Secret, random};
use crate::store::users::{self, UserRow};
use crate::wire::{ApplicationType, GrantType, ManagedBy};

const USERNAME: &str = "demo";
/// Where applications that are being written listen, and with it every port of 127.0.0.1 (RFC 8252 §7.3), at which
/// `login --dev` waits.
const REDIRECT_URIS: [&str; 2] = ["http://127.0.0.1:3000/callback", "http://localhost:3000/callback"];
const POST_LOGOUT_REDIRECT_URIS: [&str; 2] = ["http://127.0.0.1:3000/", "http://localhost:3000/"];

/// By which a person signs in.
#[derive(Clone, Serialize, Deserialize)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    #[serde(serialize_with = "expose")]
    pub password: Secret,
}

/// An application that people sign in to.
#[derive(Clone, Serialize, Deserialize)]
pub struct WebClient {
    /// By which it authenticates.
    #[serde(flatten)]
    pub credentials: Credentials,
    /// Where it is answered; on 127.0.0.1 at every port.
    pub redirect_uris: Vec<String>,
}

impl Login {
    /// The demo person with a new password: 20 letters and digits, none of which looks like another.
    pub(super) fn generate() -> Result<Self, NoRandomness> {
        const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let letters: Vec<char> =
            random::<20>()?.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
        let groups: Vec<String> = letters.chunks(5).map(|group| group.iter().collect()).collect();
        Ok(Self { username: USERNAME.to_owned(), password: Secret::new(groups.join("-")) })
    }

    /// Makes the person if they are missing, and gives them this password if another one is set.
    pub(super) async fn save(&self, services: &Services) -> Result<(), Failure> {
        let key = self.username.clone();
        let found = services.db.read(move |conn| Box::pin(async move { users::by_username(conn, &key).await })).await?;
        let known = found.as_ref().and_then(|user| user.password.as_deref());
        if known.is_some() && services.passwords.verify(&self.password, known, None).await? {
            return Ok(());
        }
        let phc = services.passwords.hash(&self.password, None).await?;
        let sub = uuid::Builder::from_random_bytes(random()?).into_uuid().to_string();
        let profile = json!({
            "groups": ["demo"], "name": "Demo Person", "given_name": "Demo", "family_name": "Person",
            "email": "demo@example.com", "email_verified": true,
        });
        let username = self.username.clone();
        let saved = services.db.write(move |tx| {
            Box::pin(async move {
                if let Some(user) = found {
                    return users::set_password(tx, &user.sub, &phc).await;
                }
                let row = UserRow {
                    sub,
                    username_key: username.clone(),
                    username,
                    profile: profile.to_string(),
                    password: Some(phc),
                    disabled: false,
                    managed_by: ManagedBy::System.to_string(),
                    created_at: tx.now(),
                    updated_at: tx.now(),
                };
                users::add(tx, &row).await
            })
        });
        saved.await.map(drop).map_err(Failure::from)
    }
}

impl WebClient {
    /// The demo application with these credentials.
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, redirect_uris: REDIRECT_URIS.map(str::to_owned).to_vec() }
    }

    /// What it is. Native, so that the port of 127.0.0.1 is free; with a secret, so that libraries for web servers work.
    pub(super) fn metadata(&self) -> Result<ClientMetadata, Failure> {
        let scope = ["openid", "profile", "email", "offline_access"].into_iter();
        let scope: Vec<&str> = scope.chain(SCOPES.iter().map(|(name, _)| *name)).collect();
        Ok(ClientMetadata {
            client_name: Some("Demo application".to_owned()),
            application_type: ApplicationType::Native,
            grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            redirect_uris: self.redirect_uris.clone(),
            post_logout_redirect_uris: POST_LOGOUT_REDIRECT_URIS.map(str::to_owned).to_vec(),
            scope: scope.join(" ").parse()?,
            resources: vec![RESOURCE.to_owned()],
            ..ClientMetadata::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_long_and_each_time_another() {
        let (one, other) = (Login::generate().unwrap(), Login::generate().unwrap());
        assert!(one.password.expose().len() >= 15 && one.password.expose() != other.password.expose());
    }

    #[test]
    fn the_demo_application_is_one_that_apply_would_take() {
        let client_secret = crate::secret::Prefix::ClientSecret.generate().unwrap();
        let client = WebClient::new(Credentials { client_id: "demo-web".to_owned(), client_secret });
        assert_eq!(client.metadata().unwrap().check(3600, false), []);
    }
}
