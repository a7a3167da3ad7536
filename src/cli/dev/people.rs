//! The demo person and the application that they sign in to.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::output::Failure;
use super::{Credentials, RESOURCE, SCOPES, expose};
use crate::audit::{self, Action, Actor, Event};
use crate::clients::ClientMetadata;
use crate::cx::Services;
use crate::nodes;
use crate::secret::{NoRandomness, Secret};
use crate::store::users::{self, UserRow};
use crate::users::{new_sub, password, set_password};
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
    /// The demo person with a new password.
    pub(super) fn generate() -> Result<Self, NoRandomness> {
        Ok(Self { username: USERNAME.to_owned(), password: password::generate()? })
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
        let sub = new_sub()?;
        let profile = json!({
            "groups": ["demo"], "name": "Demo Person", "given_name": "Demo", "family_name": "Person",
            "email": "demo@example.com", "email_verified": true,
        });
        let username = self.username.clone();
        let saved = services.db.write(move |tx| {
            Box::pin(async move {
                let actor = Actor::system();
                if let Some(user) = found {
                    return set_password(tx, &actor, &user.sub, &phc).await;
                }
                let row = UserRow {
                    sub,
                    username_key: username.clone(),
                    username,
                    profile: profile.to_string(),
                    password: Some(phc),
                    password_changed_at: None,
                    password_import: None,
                    disabled: false,
                    managed_by: ManagedBy::System.to_string(),
                    created_at: tx.now(),
                    updated_at: tx.now(),
                };
                users::add(tx, &row).await?;
                let saved = Event::UserSaved { action: Action::Create, fields: Vec::new() };
                audit::record(tx, &actor, &row.sub, &saved)
            })
        });
        if let Some(seq) = saved.await?.seq {
            nodes::acted_on(services, seq).await?;
        }
        Ok(())
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
            client_name: Some("Demo application".into()),
            application_type: ApplicationType::Native,
            grant_types: [GrantType::AuthorizationCode, GrantType::RefreshToken].into(),
            redirect_uris: self.redirect_uris.as_slice().into(),
            post_logout_redirect_uris: POST_LOGOUT_REDIRECT_URIS.map(str::to_owned).into(),
            scope: scope.join(" ").parse()?,
            resources: [RESOURCE.to_owned()].into(),
            ..ClientMetadata::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_application_is_one_that_apply_would_take() {
        let client_secret = crate::secret::Prefix::ClientSecret.generate().unwrap();
        let client = WebClient::new(Credentials { client_id: "demo-web".to_owned(), client_secret });
        assert_eq!(client.metadata().unwrap().check(3600, false), []);
    }
}
