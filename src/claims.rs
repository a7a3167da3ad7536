//! Claims of people: one table says for each claim its scope and where it comes from. ID tokens, userinfo, discovery
//! and the words of the consent page all read it. Rows of an operator's own ([`Mappers`]) come beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clients::Client;
use crate::clock::SECOND;
use crate::cx::{Cx, Services};
use crate::store::claim_mappers::{self, MapperRow};
use crate::store::{Conn, StoreError};
use crate::users::User;
use crate::wire::{Scope, UnknownWord};

/// The OpenID scopes, which the userinfo resource owns; what matters most to people comes first. What each means in
/// words, the pages' catalogue says in every language.
pub const SCOPES: &[&str] = &["openid", "profile", "email", "address", "phone", "groups", "offline_access"];

/// What a client asked for by name (OpenID Connect Core §5.5): claim → how, for each of the two places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimsRequest {
    /// For the userinfo endpoint.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub userinfo: BTreeMap<String, Option<Wanted>>,
    /// For the ID token.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub id_token: BTreeMap<String, Option<Wanted>>,
}

/// How one claim is wanted (OpenID Connect Core §5.5.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Whether the client cannot do without.
    pub essential: bool,
    /// The value that it must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// The values of which it must have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Value>>,
}

/// Where claims are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the ID token: what was asked for by name, since there is a userinfo endpoint (OpenID Connect Core §5.4), and
    /// what operators have rows for: who writes a row has a client that reads it there.
    IdToken,
    /// At the userinfo endpoint: what the scopes stand for, and what was asked for by name.
    Userinfo,
}

/// What JSON a claim is (OpenID Connect Core §5.1). Told as another, clients would fall over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Flag,
    Number,
    Object,
    Texts,
}

impl Type {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.as_str().is_some_and(|text| !text.is_empty()),
            Self::Flag => value.is_boolean(),
            Self::Number => value.is_number(),
            Self::Object => value.as_object().is_some_and(|members| !members.is_empty()),
            Self::Texts => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
        }
    }
}

/// The standard claims (OpenID Connect Core §5.1 and §5.4) and the groups: claim, scope, type.
const STANDARD: &[(&str, &str, Type)] = &[
    ("name", "profile", Type::Text),
    ("family_name", "profile", Type::Text),
    ("given_name", "profile", Type::Text),
    ("middle_name", "profile", Type::Text),
    ("nickname", "profile", Type::Text),
    ("preferred_username", "profile", Type::Text),
    ("profile", "profile", Type::Text),
    ("picture", "profile", Type::Text),
    ("website", "profile", Type::Text),
    ("gender", "profile", Type::Text),
    ("birthdate", "profile", Type::Text),
    ("zoneinfo", "profile", Type::Text),
    ("locale", "profile", Type::Text),
    ("updated_at", "profile", Type::Number),
    ("email", "email", Type::Text),
    ("email_verified", "email", Type::Flag),
    ("address", "address", Type::Object),
    ("phone_number", "phone", Type::Text),
    ("phone_number_verified", "phone", Type::Flag),
    ("groups", "groups", Type::Texts),
];

/// Claims that tokens speak by themselves: nothing that is known of a person may stand under these names.
const OF_TOKENS: &[&str] = &[
    "acr",
    "act",
    "active",
    "amr",
    "at_hash",
    "aud",
    "auth_time",
    "authorization_details",
    "azp",
    "c_hash",
    "client_id",
    "cnf",
    "events",
    "exp",
    "iat",
    "iss",
    "jti",
    "may_act",
    "nbf",
    "nonce",
    "s_hash",
    "scope",
    "sid",
    "sub",
    "sub_jwk",
    "token_type",
    "typ",
];

/// Those of them that clients find in an ID token, for discovery.
const IN_ID_TOKENS: &[&str] =
    &["acr", "amr", "at_hash", "aud", "auth_time", "azp", "exp", "iat", "iss", "nonce", "sid", "sub"];

/// Whether tokens speak this claim by themselves: told of a person, it would lie.
pub fn is_of_tokens(claim: &str) -> bool {
    OF_TOKENS.contains(&claim)
}

/// Whether `claim` may be told of people: a name of 1 to 200 visible characters, and not one of the tokens' own.
pub fn is_free(claim: &str) -> bool {
    (1..=200).contains(&claim.len())
        && claim.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
        && !is_of_tokens(claim)
}

/// Whether `value` is of the type that `claim` has by the standard; any is, for a claim of somebody's own.
pub fn fits(claim: &str, value: &Value) -> bool {
    // OpenID Connect Core §5.2: `name#de` is a name, too.
    let base = claim.split('#').next().unwrap_or(claim);
    STANDARD.iter().find(|(name, ..)| *name == base).is_none_or(|(.., of)| of.fits(value))
}

/// Where a claim's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `groups`: the person's groups.
    Groups,
    /// `profile.NAME`: the claim NAME of the person's profile.
    Profile(String),
}

impl FromStr for Source {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text.strip_prefix("profile.") {
            Some(name) if (1..=200).contains(&name.len()) && !name.contains(char::is_control) => {
                Ok(Self::Profile(name.to_owned()))
            }
            None if text == "groups" => Ok(Self::Groups),
            _ => Err(UnknownWord),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Groups => f.write_str("groups"),
            Self::Profile(name) => write!(f, "profile.{name}"),
        }
    }
}

impl Source {
    fn value(&self, user: &User) -> Option<Value> {
        match self {
            Self::Groups if user.profile.groups.is_empty() => None,
            Self::Groups => Some(Value::from(user.profile.groups.clone())),
            Self::Profile(name) => user.profile.claims.get(name).filter(|value| !value.is_null()).cloned(),
        }
    }
}

/// A row of an operator's: a claim that clients get with a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapper {
    /// The claim's name.
    claim: String,
    /// Where its value comes from.
    source: Source,
    /// The scope that stands for it.
    scope: String,
    /// The only client that gets it; `None`: all of them.
    client_id: Option<String>,
}

/// All rows of operators, as of one moment.
#[derive(Debug, Default)]
pub struct Mappers(Vec<Mapper>);

impl Mappers {
    /// Reads all of them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn load(conn: &mut Conn) -> Result<Self, StoreError> {
        let rows = claim_mappers::list(conn).await?;
        Ok(Self(rows.into_iter().filter_map(Mapper::from_row).collect()))
    }

    /// Those for `client_id`. One for this client alone comes after one for all, and so wins.
    fn of_client(&self, client_id: &str) -> impl Iterator<Item = &Mapper> {
        let for_all = self.0.iter().filter(|mapper| mapper.client_id.is_none());
        for_all.chain(self.0.iter().filter(move |mapper| mapper.client_id.as_deref() == Some(client_id)))
    }

    /// The scopes of `client` that stand for one of the claims that are `asked` for by name.
    fn scopes(&self, client: &Client, asked: impl Fn(&str) -> bool) -> Scope {
        client.metadata.scope.filter(|token| {
            STANDARD.iter().any(|(claim, scope, _)| *scope == token && asked(claim))
                || self.of_client(&client.client_id).any(|mapper| mapper.scope == token && asked(&mapper.claim))
        })
    }

    /// Whether `client` may have `claim` of people: one of its scopes stands for it.
    pub fn gives(&self, client: &Client, claim: &str) -> bool {
        !self.scopes(client, |asked| asked == claim).is_empty()
    }
}

impl Mapper {
    /// `None`, and a line in the log, for a row that this binary does not understand: it takes nothing else with it.
    fn from_row(row: MapperRow) -> Option<Self> {
        let MapperRow { claim, source, scope, client_id, .. } = row;
        let Some(source) = source.parse().ok().filter(|_| is_free(&claim)) else {
            tracing::error!(claim, "a claim's row cannot be read; nobody gets it");
            return None;
        };
        let client_id = if client_id.is_empty() { None } else { Some(client_id) };
        Some(Self { claim, source, scope, client_id })
    }
}

/// What `client` may know of `user` at `place`. Never `sub` and the other claims of the token itself.
///
/// Every claim needs its scope to be among those that the client has registered, also one that was asked for by name;
/// what people are asked for then is [`scopes_asked`].
pub fn of(
    cx: &Cx<'_>,
    user: &User,
    client: &Client,
    granted: (&Scope, &ClaimsRequest),
    place: Place,
) -> Map<String, Value> {
    told(&cx.claim_mappers.load(), user, client, granted, place)
}

fn told(
    mappers: &Mappers,
    user: &User,
    client: &Client,
    (scope, request): (&Scope, &ClaimsRequest),
    place: Place,
) -> Map<String, Value> {
    let by_name = match place {
        Place::IdToken => &request.id_token,
        Place::Userinfo => &request.userinfo,
    };
    let mut told = Map::new();
    let mut tell = |claim: &str, needs: &str, by_scope: bool, value: &dyn Fn() -> Option<Value>| {
        let (covered, named) = (by_scope && scope.contains(needs), by_name.get(claim));
        // What the client lost since, nobody tells it by an old grant.
        if !covered && named.is_none() || !client.metadata.scope.contains(needs) {
            return;
        }
        let Some(value) = value() else { return };
        if covered || named.is_some_and(|wanted| wanted.as_ref().is_none_or(|wanted| wanted.accepts(&value))) {
            told.insert(claim.to_owned(), value);
        }
    };
    for (claim, needs, of) in STANDARD {
        tell(claim, needs, place == Place::Userinfo, &|| standard(user, claim).filter(|value| of.fits(value)));
    }
    for mapper in mappers.of_client(&client.client_id) {
        tell(&mapper.claim, &mapper.scope, true, &|| mapper.source.value(user));
    }
    told
}

fn standard(user: &User, claim: &str) -> Option<Value> {
    match claim {
        "groups" => Source::Groups.value(user),
        // What they sign in by, unless they have said what they like to be called.
        "preferred_username" => {
            user.profile.claims.get(claim).cloned().or_else(|| Some(Value::from(user.username.clone())))
        }
        // OpenID Connect Core §5.1: in seconds.
        "updated_at" => Some(Value::from(user.updated_at / SECOND)),
        _ => user.profile.claims.get(claim).cloned(),
    }
}

/// The scopes that stand for the claims that `client` asks for by name and may get: what the person must agree to
/// beside the scopes that are asked for.
pub fn scopes_asked(cx: &Cx<'_>, client: &Client, request: &ClaimsRequest) -> Scope {
    let asked = |claim: &str| request.userinfo.contains_key(claim) || request.id_token.contains_key(claim);
    cx.claim_mappers.load().scopes(client, asked)
}

/// OpenID Connect Discovery §3, `claims_supported`: those of ID tokens, the standard ones, and those of operators'
/// rows for all clients. Sorted.
pub fn claims_supported(services: &Services) -> Vec<String> {
    let mappers = services.claim_mappers.load();
    let own = mappers.0.iter().filter(|mapper| mapper.client_id.is_none()).map(|mapper| mapper.claim.as_str());
    let mut claims: Vec<String> = STANDARD
        .iter()
        .map(|(claim, ..)| *claim)
        .chain(IN_ID_TOKENS.iter().copied())
        .chain(own)
        .map(str::to_owned)
        .collect();
    claims.sort_unstable();
    claims.dedup();
    claims
}

impl Wanted {
    /// OpenID Connect Core §5.5.1: with `value` or `values` the client wants the claim with one of these only.
    fn accepts(&self, found: &Value) -> bool {
        self.value.as_ref().is_none_or(|value| value == found)
            && self.values.as_ref().is_none_or(|values| values.contains(found))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clients::ClientMetadata;
    use crate::wire::ManagedBy;

    fn user() -> User {
        let profile = json!({
            "groups": ["staff", "admins"], "name": "Ada", "email": "ada@example.com", "email_verified": "yes",
            "address": { "locality": "London" }, "cost_center": 7, "sub": "somebody else",
        });
        User {
            sub: "5f8e9ab6-0000-4000-8000-000000000001".into(),
            username: "ada".into(),
            profile: serde_json::from_value(profile).unwrap(),
            disabled: false,
            managed_by: ManagedBy::Apply,
            updated_at: 1_700_000_000 * SECOND + 1,
        }
    }

    fn client(scope: &str) -> Client {
        Client {
            client_id: "web".into(),
            metadata: ClientMetadata { scope: scope.parse().unwrap(), ..ClientMetadata::default() },
            disabled: false,
            unverified: false,
            credentials: [].into(),
        }
    }

    fn mapper(claim: &str, source: &str, scope: &str, client_id: Option<&str>) -> Mapper {
        let client_id = client_id.map(str::to_owned);
        Mapper { claim: claim.into(), source: source.parse().unwrap(), scope: scope.into(), client_id }
    }

    fn names(told: &Map<String, Value>) -> Vec<&str> {
        // In what order a JSON object keeps its members is a feature that any dependency may switch on.
        let mut names: Vec<&str> = told.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn core_5_4_claims_come_with_their_scope_at_userinfo_and_by_name_in_id_tokens() {
        let (user, client, none) = (user(), client("openid profile email groups"), ClaimsRequest::default());
        let scope: Scope = "openid email profile groups".parse().unwrap();
        let told_at = |scope: &Scope, request: &ClaimsRequest, place| {
            told(&Mappers::default(), &user, &client, (scope, request), place)
        };
        let all = told_at(&scope, &none, Place::Userinfo);
        // The address needs its own scope, and `email_verified` is not a flag.
        assert_eq!(names(&all), ["email", "groups", "name", "preferred_username", "updated_at"]);
        assert_eq!((&all["preferred_username"], &all["updated_at"]), (&json!("ada"), &json!(1_700_000_000)));
        assert_eq!(told_at(&scope, &none, Place::IdToken), Map::new());
        assert_eq!(told_at(&"openid".parse().unwrap(), &none, Place::Userinfo), Map::new());

        let request: ClaimsRequest = serde_json::from_value(
            json!({ "id_token": { "email": { "essential": true }, "address": null, "sub": null },
                "userinfo": { "name": { "value": "Ada" }, "nickname": null } }),
        )
        .unwrap();
        let openid: Scope = "openid".parse().unwrap();
        // T: a claim whose scope the client never registered is not given by name either, nor is a token's own.
        assert_eq!(names(&told_at(&openid, &request, Place::IdToken)), ["email"]);
        assert_eq!(names(&told_at(&openid, &request, Place::Userinfo)), ["name"]);
        let other: ClaimsRequest =
            serde_json::from_value(json!({ "userinfo": { "name": { "value": "Eve" }, "email": { "values": ["a"] } } }))
                .unwrap();
        assert_eq!(told_at(&openid, &other, Place::Userinfo), Map::new());
    }

    #[test]
    fn rows_of_operators_are_told_in_both_places_and_the_clients_own_wins() {
        let (user, client, none) = (user(), client("openid orders"), ClaimsRequest::default());
        let mappers = Mappers(vec![
            mapper("roles", "profile.cost_center", "orders", Some("web")),
            mapper("roles", "groups", "orders", None),
            mapper("center", "profile.cost_center", "orders", Some("other")),
            mapper("missing", "profile.none", "orders", None),
            mapper("more", "groups", "payments", None),
        ]);
        let scope: Scope = "openid orders".parse().unwrap();
        for place in [Place::IdToken, Place::Userinfo] {
            let told = told(&mappers, &user, &client, (&scope, &none), place);
            assert_eq!(Value::Object(told), json!({ "roles": 7 }), "{place:?}");
        }
    }

    #[test]
    fn claims_of_tokens_are_nobodys() {
        for claim in OF_TOKENS.iter().chain(IN_ID_TOKENS) {
            assert!(!is_free(claim), "{claim}");
        }
        for claim in ["", "a b", "a\"b", "a\u{7f}", &"a".repeat(201)] {
            assert!(!is_free(claim), "{claim}");
        }
        assert!(is_free("https://example.com/roles") && is_free("name"));
        let row = |claim: &str, source: &str| {
            let row = MapperRow {
                claim: claim.into(),
                source: source.into(),
                scope: "s".into(),
                client_id: String::new(),
                managed_by: "apply".into(),
            };
            Mapper::from_row(row)
        };
        assert!(row("sub", "groups").is_none() && row("a", "later").is_none() && row("a", "groups").is_some());
    }

    #[test]
    fn sources_are_read_as_they_are_written() {
        for text in ["groups", "profile.name", "profile.a.b"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for bad in ["", "profile", "profile.", "group", "groups.x", "profile.\n"] {
            assert!(bad.parse::<Source>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_standard_claim_has_a_scope_of_words() {
        for (claim, scope, _) in STANDARD {
            assert!(SCOPES.contains(scope) && is_free(claim), "{claim}");
        }
        assert!(fits("name#de", &json!("Ada")) && !fits("name#de", &json!(1)) && fits("cost", &json!(1)));
    }
}
