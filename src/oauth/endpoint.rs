//! What the endpoints that take a form and a client have in common.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderValue};

use super::OAuth;
use crate::clients::{Client, auth};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::http::layers::Peer;
use crate::http::{cors, form};

/// A form request by a client, read.
pub(super) struct Call<'s> {
    pub(super) cx: Cx<'s>,
    pub(super) form: Form,
    authorization: Option<HeaderValue>,
    origin: Option<HeaderValue>,
}

impl<'s> Call<'s> {
    /// Reads the request.
    ///
    /// # Errors
    /// As [`form::read_form`].
    pub(super) async fn read(oauth: &'s OAuth, request: Request) -> (Cx<'s>, Result<Self>) {
        let (parts, body): (_, Body) = request.into_parts();
        let cx = match parts.extensions.get::<Peer>() {
            Some(peer) => Cx::new(&oauth.services, peer.address, peer.request_id.as_str().into()),
            None => Cx::new(&oauth.services, std::net::Ipv4Addr::UNSPECIFIED.into(), "".into()),
        };
        let read = form::read_form(&parts.headers, body, oauth.max_body).await;
        // A body may take its time; what follows is judged by the time when all of it was there.
        let cx = cx.later();
        let read = read.map(|form| Self {
            cx: cx.clone(),
            form,
            authorization: parts.headers.get(AUTHORIZATION).cloned(),
            origin: parts.headers.get(ORIGIN).cloned(),
        });
        (cx, read)
    }

    /// The client that makes this call.
    ///
    /// # Errors
    /// As [`auth::authenticate`].
    pub(super) async fn client(&self) -> Result<Arc<Client>> {
        auth::authenticate(&self.cx, self.authorization()?, &self.form).await
    }

    /// The client that the call names, proven or not, when it exists: for counting.
    pub(super) async fn named(&self) -> Option<Arc<Client>> {
        let name = auth::named(self.authorization().ok().flatten(), &self.form)?;
        self.cx.clients.get(&name).await.ok().flatten()
    }

    fn authorization(&self) -> Result<Option<&str>> {
        let text = self.authorization.as_ref().map(HeaderValue::to_str).transpose();
        text.map_err(|_| Error::new(Code::InvalidClient, "The Authorization header is not ASCII."))
    }

    /// CORS: a page may read the answer when the client that it named registered the page's origin.
    pub(super) fn allow_origin(&self, client: Option<&Client>, headers: &mut HeaderMap) {
        let Some(origin) = &self.origin else { return };
        let allowed = origin.to_str().is_ok_and(|origin| client.is_some_and(|client| client.allows_origin(origin)));
        cors::allow(headers, allowed.then_some(origin));
    }
}

/// A preflight for an endpoint of clients: it names none, so any registered origin is told yes.
pub(super) async fn preflight(State(oauth): State<Arc<OAuth>>, headers: HeaderMap) -> Response {
    let origin = headers.get(ORIGIN);
    let known = origin.filter(|origin| origin.to_str().is_ok_and(|origin| oauth.services.clients.knows_origin(origin)));
    cors::preflight(known, "POST")
}

/// A preflight for a public document.
pub(super) async fn preflight_public() -> Response {
    cors::preflight(Some(&HeaderValue::from_static("*")), "GET")
}
