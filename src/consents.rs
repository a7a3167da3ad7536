//! What people agreed to, and when they must be asked (again).

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use url::Url;

use crate::audit::{self, Actor, Event};
use crate::claims::{ClaimsRequest, is_of_tokens};
use crate::clients::{Client, ClientMetadata, redirect};
use crate::clock::Micros;
use crate::cx::Cx;
use crate::error::Result;
use crate::flow::{self, Asked, Decision, Flow, FlowId};
use crate::issue;
use crate::nodes;
use crate::resources::Catalog;
use crate::secret::sha256;
use crate::store::consents::{self, ConsentRow};
use crate::store::grants;
use crate::wire::{AuthMethod, Scope, USERINFO_PATH};

/// What is agreed to for one resource: scope tokens, and claims by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extent {
    scope: BTreeSet<String>,
    claims: BTreeSet<String>,
}

impl Extent {
    fn covers(&self, other: &Self) -> bool {
        other.scope.is_subset(&self.scope) && other.claims.is_subset(&self.claims)
    }

    /// A row that cannot be read agrees to nothing.
    fn of(row: &ConsentRow) -> Self {
        let scope: Scope = row.scope.parse().unwrap_or_default();
        Self {
            scope: scope.iter().map(str::to_owned).collect(),
            claims: serde_json::from_str(&row.claims).unwrap_or_default(),
        }
    }
}

/// Resource → what is agreed to for it.
type Extents = BTreeMap<String, Extent>;

/// Whether `sub` must be asked: the client is nobody's word but its own, or anybody could pose as it, or it asks for more
/// than was agreed to, or has become another. A first-party client that is set to skip consent is never asked for.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn is_needed(cx: &Cx<'_>, client: &Client, asked: &Asked, sub: &str) -> Result<bool> {
    // mechanisms.md, decision 5: nobody has vouched for an unverified client.
    if client.unverified || can_be_posed_as(client, asked) {
        return Ok(true);
    }
    Ok(must_agree(client) && !is_given(cx, client, asked, sub).await?)
}

/// Whether a client that somebody has vouched for is asked about each time all the same: it has no credentials, and is
/// answered on the person's machine, where any other program can take its place; a `client_id` is no secret (RFC 8252
/// §8.6). Nor is what is shipped with a program: such a client is to be registered without (§8.5).
pub fn can_be_posed_as(client: &Client, asked: &Asked) -> bool {
    !client.unverified
        && must_agree(client)
        && client.metadata.token_endpoint_auth_method == AuthMethod::None
        && redirect::is_on_device(&asked.redirect_uri)
}

/// Whether people are asked about the client at all.
fn must_agree(client: &Client) -> bool {
    client.unverified || !client.metadata.skip_consent
}

/// Whether `sub` agreed to all of this, with the client as it is, and has not taken it back.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn is_given(cx: &Cx<'_>, client: &Client, asked: &Asked, sub: &str) -> Result<bool> {
    let (id, client_id) = (sub.to_owned(), client.client_id.clone());
    let rows = cx.db.read(move |conn| Box::pin(async move { consents::list(conn, &id, &client_id).await })).await?;
    let userinfo = cx.issuer.endpoint(USERINFO_PATH);
    let wanted = extents(&cx.resources.load(), &userinfo, asked);
    Ok(is_covered(&rows, &identity(&client.metadata), &wanted))
}

/// What must stand still when a code is made for `client`: the [`identity`] that was agreed to; nothing where it need not
/// be asked for.
pub fn agreed(client: &Client) -> Option<String> {
    must_agree(client).then(|| identity(&client.metadata))
}

/// Keeps that `sub` agreed to what a flow asks for, beside what they agreed to before: with the flow, or, where that has
/// ended meanwhile, not at all: false then.
///
/// # Errors
/// 503 when the database does not take it.
pub async fn agree(cx: &Cx<'_>, client: &Client, (id, flow): (&FlowId, &Flow), sub: &str) -> Result<bool> {
    let (id, mut flow, now) = (id.clone(), flow.clone(), cx.now);
    flow.decision = Some(Decision::Approved);
    let asked = &flow.asked;
    let userinfo = cx.issuer.endpoint(USERINFO_PATH);
    let wanted = extents(&cx.resources.load(), &userinfo, asked);
    let (sub, client_id, identity) = (sub.to_owned(), client.client_id.clone(), identity(&client.metadata));
    let actor = Actor::person(cx, &sub);
    let event = Event::ConsentGiven { scope: asked.scope.to_string(), resources: asked.resources.clone() };
    let kept = cx
        .db
        .write(move |tx| {
            Box::pin(async move {
                if !flow::keep_in(tx, &id, &flow, now).await? {
                    return Ok(false);
                }
                // What was agreed to with another client under this name is not agreed to with this one.
                consents::forget_others(tx, &sub, &client_id, &identity).await?;
                let known = consents::list(tx, &sub, &client_id).await?;
                for (resource, mut extent) in wanted {
                    for before in known.iter().filter(|row| row.resource == resource).map(Extent::of) {
                        extent.scope.extend(before.scope);
                        extent.claims.extend(before.claims);
                    }
                    let scope = extent.scope.into_iter().collect::<Vec<_>>().join(" ");
                    let claims = serde_json::Value::from_iter(extent.claims).to_string();
                    let row = ConsentRow { resource, scope, claims, identity: identity.clone() };
                    consents::save(tx, &sub, &client_id, &row).await?;
                }
                audit::record(tx, &actor, &client_id, &event)?;
                Ok(true)
            })
        })
        .await?;
    Ok(kept.value)
}

/// What a person granted one client, for the person.
pub struct Granted {
    /// To whom.
    pub client_id: String,
    /// Every scope that they agreed to, or that a grant covers where nobody had to be asked.
    pub scope: Scope,
    /// Claims by name.
    pub claims: ClaimsRequest,
    /// Where, by identifier: also what no scope of it stands for.
    pub resources: BTreeSet<String>,
    /// Since when the client has any of it.
    pub since: Micros,
}

/// What `sub` granted and has not taken back: what they agreed to, and grants that stand; by client.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn of_person(cx: &Cx<'_>, sub: &str) -> Result<Vec<Granted>> {
    let (sub, now) = (sub.to_owned(), cx.now);
    let reading = cx.db.read(move |conn| {
        Box::pin(async move { Ok((consents::of_user(conn, &sub).await?, grants::standing(conn, &sub, now).await?)) })
    });
    let (agreed, standing) = reading.await?;
    let mut granted: BTreeMap<String, Granted> = BTreeMap::new();
    let mut add = |client_id: String, extent: Extent, resources: Vec<String>, since: Micros| {
        let all = granted.entry(client_id.clone()).or_insert_with(|| Granted {
            client_id,
            scope: Scope::default(),
            claims: ClaimsRequest::default(),
            resources: BTreeSet::new(),
            since,
        });
        all.scope = all.scope.iter().chain(extent.scope.iter().map(String::as_str)).collect();
        all.claims.userinfo.extend(extent.claims.into_iter().map(|claim| (claim, None)));
        all.resources.extend(resources);
        all.since = since.min(all.since);
    };
    for (client_id, since, row) in agreed {
        add(client_id, Extent::of(&row), vec![row.resource], since);
    }
    for (client_id, scope, resources, since) in standing {
        let scope: Scope = scope.parse().unwrap_or_default();
        let scope = scope.iter().map(str::to_owned).collect();
        let resources = serde_json::from_str(&resources).unwrap_or_default();
        add(client_id, Extent { scope, claims: BTreeSet::new() }, resources, since);
    }
    Ok(granted.into_values().collect())
}

/// Takes back all that `sub` granted a client: it is asked for again, and no token or code of it is good any more. When
/// this returns every node acts on it.
///
/// # Errors
/// 503 when the database does not take it, or a node has not confirmed it: then the caller tries again.
pub async fn withdraw(cx: &Cx<'_>, sub: &str, client_id: &str) -> Result<()> {
    let (sub, client_id, actor) = (sub.to_owned(), client_id.to_owned(), Actor::person(cx, sub));
    let withdrawn = cx.db.write(move |tx| {
        Box::pin(async move {
            let had = consents::forget(tx, &sub, &client_id).await?;
            let waits = issue::revoke_of_person_at(tx, &sub, &client_id, &actor).await?;
            if had {
                audit::record(tx, &actor, &client_id, &Event::ConsentWithdrawn)?;
            }
            Ok(waits)
        })
    });
    let withdrawn = withdrawn.await?;
    match withdrawn.seq.or(withdrawn.value) {
        Some(seq) => nodes::acted_on(cx, seq).await,
        None => Ok(()),
    }
}

fn is_covered(rows: &[ConsentRow], identity: &str, wanted: &Extents) -> bool {
    wanted.iter().all(|(resource, extent)| {
        rows.iter().any(|row| row.resource == *resource && row.identity == identity && Extent::of(row).covers(extent))
    })
}

/// What is asked for, each scope at the resource that owns it, claims at the userinfo endpoint.
fn extents(catalog: &Catalog, userinfo: &str, asked: &Asked) -> Extents {
    let mut extents: Extents = asked.resources.iter().map(|resource| (resource.clone(), Extent::default())).collect();
    for token in asked.scope.iter() {
        // A scope whose resource went meanwhile is nobody's; it must be agreed to all the same.
        let owner = catalog.owner(token).map_or("", |owner| owner.identifier.as_str());
        extents.entry(owner.to_owned()).or_default().scope.insert(token.to_owned());
    }
    let named = asked.claims.userinfo.keys().chain(asked.claims.id_token.keys());
    // What tokens say by themselves nobody is asked about.
    for claim in named.filter(|claim| !is_of_tokens(claim)) {
        extents.entry(userinfo.to_owned()).or_default().claims.insert(claim.clone());
    }
    extents
}

/// What people know a client by: its name, its logo, the host of its page, and where it sends them.
pub fn identity(client: &ClientMetadata) -> String {
    let host = |uri: &str| Url::parse(uri).ok().and_then(|url| url.host_str().map(str::to_owned));
    let origin = |uri: &String| match Url::parse(uri) {
        Ok(url) if url.origin().is_tuple() => url.origin().ascii_serialization(),
        Ok(url) => format!("{}:", url.scheme()),
        Err(_) => uri.clone(),
    };
    let origins: BTreeSet<String> = client.redirect_uris.iter().map(origin).collect();
    let known_by = (&client.client_name, &client.logo_uri, client.client_uri.as_deref().and_then(host), origins);
    // Strings and lists of them: writing them cannot fail.
    BASE64_URL_SAFE_NO_PAD.encode(sha256(&serde_json::to_vec(&known_by).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ResponseMode;

    fn row(resource: &str, scope: &str, identity: &str) -> ConsentRow {
        ConsentRow {
            resource: resource.into(),
            scope: scope.into(),
            claims: r#"["name"]"#.into(),
            identity: identity.into(),
        }
    }

    fn wanted(resource: &str, scope: &str, claims: &[&str]) -> Extents {
        let scope: Scope = scope.parse().unwrap();
        let extent = Extent {
            scope: scope.iter().map(str::to_owned).collect(),
            claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
        };
        [(resource.to_owned(), extent)].into()
    }

    #[test]
    fn t155_more_than_was_agreed_to_is_asked_for() {
        let rows = [row("https://a", "read write", "x"), row("https://b", "read", "x")];
        for (resource, scope, claims, identity, covered) in [
            ("https://a", "read write", &["name"][..], "x", true),
            ("https://a", "read", &[], "x", true),
            ("https://a", "", &[], "x", true),
            ("https://a", "read other", &[], "x", false),
            ("https://a", "read", &["email"], "x", false),
            ("https://b", "write", &[], "x", false),
            ("https://c", "read", &[], "x", false),
            ("https://c", "", &[], "x", false),
            ("https://a", "read", &[], "y", false),
        ] {
            let said = is_covered(&rows, identity, &wanted(resource, scope, claims));
            assert_eq!(said, covered, "{resource} {scope} {claims:?} {identity}");
        }
        let unread = ConsentRow { claims: "?".into(), scope: "  ".into(), ..row("https://a", "", "x") };
        assert!(!is_covered(&[unread], "x", &wanted("https://a", "read", &[])));
    }

    #[test]
    fn t155_a_client_that_became_another_is_another() {
        let client = ClientMetadata {
            client_name: Some("Shop".into()),
            client_uri: Some("https://shop.test/about".into()),
            redirect_uris: ["https://shop.test/cb".into()].into(),
            ..ClientMetadata::default()
        };
        let before = identity(&client);
        let same = ClientMetadata {
            client_uri: Some("https://shop.test/other".into()),
            redirect_uris: ["https://shop.test/cb2".into(), "https://shop.test/cb".into()].into(),
            contacts: ["a@shop.test".into()].into(),
            ..client.clone()
        };
        assert_eq!(identity(&same), before);
        for other in [
            ClientMetadata { client_name: Some("Shop 2".into()), ..client.clone() },
            ClientMetadata { client_name: None, ..client.clone() },
            ClientMetadata { logo_uri: Some("https://shop.test/logo".into()), ..client.clone() },
            ClientMetadata { client_uri: Some("https://evil.test/about".into()), ..client.clone() },
            ClientMetadata { redirect_uris: ["https://evil.test/cb".into()].into(), ..client.clone() },
            ClientMetadata { redirect_uris: ["com.example.a:/cb".into()].into(), ..client.clone() },
        ] {
            assert_ne!(identity(&other), before, "{other:?}");
        }
    }

    #[test]
    fn claims_by_name_are_agreed_to_at_the_userinfo_endpoint() {
        let mut asked = Asked::of("a", "https://rp.test/cb", ResponseMode::Query);
        asked.resources = vec!["https://a".into()];
        asked.claims.userinfo.insert("email".into(), None);
        asked.claims.id_token.insert("name".into(), None);
        asked.scope = "gone".parse().unwrap();
        let extents = extents(&Catalog::default(), "https://i/userinfo", &asked);
        assert_eq!(extents.keys().collect::<Vec<_>>(), ["", "https://a", "https://i/userinfo"]);
        assert_eq!(extents["https://i/userinfo"].claims.iter().collect::<Vec<_>>(), ["email", "name"]);
    }
}
