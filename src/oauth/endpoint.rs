//! What the endpoints that take a form and a client have in common.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::OAuth;
use crate::audit::Counted;
use crate::clients::{Client, auth};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::http::{cors, form, view};

/// A request by a client. An endpoint begins one, answers (reads it, authenticates, does its work) and finishes it.
pub(super) struct Call<'s> {
    pub(super) cx: Cx<'s>,
    /// Empty until it is read.
    pub(super) form: Form,
    headers: HeaderMap,
    max_body: usize,
    /// Who calls, once it is proven; else, at the end, who is named.
    client: Option<Arc<Client>>,
}

impl<'s> Call<'s> {
    /// The call that `request` is, and the body to read its form from.
    pub(super) fn begin(oauth: &'s OAuth, request: Request) -> (Self, Body) {
        let (parts, body) = request.into_parts();
        let cx = view(&oauth.services, &parts.extensions);
        let call = Self { cx, form: Form::default(), headers: parts.headers, max_body: oauth.max_body, client: None };
        (call, body)
    }

    /// Reads the form.
    ///
    /// # Errors
    /// As [`form::read_form`].
    pub(super) async fn read(&mut self, body: Body) -> Result<()> {
        let read = form::read_form(&self.headers, body, self.max_body).await;
        // A body may take its time; what follows is judged by the time when all of it was there.
        self.cx.now = self.cx.clock.now();
        self.form = read?;
        Ok(())
    }

    /// The client that makes this call.
    ///
    /// # Errors
    /// As [`auth::authenticate`].
    pub(super) async fn authenticate(&mut self) -> Result<Arc<Client>> {
        let client = auth::authenticate(&self.cx, self.authorization()?, &self.form).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Counts the call and renders what it came to. A refusal counts for the client that the call names, proven or
    /// not, when it exists.
    pub(super) async fn finish(&mut self, what: Counted, outcome: Result<Response>) -> Response {
        if outcome.is_err()
            && self.client.is_none()
            && let Some(name) = auth::named(self.authorization().ok().flatten(), &self.form)
        {
            self.client = self.cx.clients.get(&name).await.ok().flatten();
        }
        let client = self.client.as_ref().map(|client| &client.client_id);
        self.cx.audit.count(&self.cx, what, client, outcome.as_ref().map(drop));
        outcome.unwrap_or_else(IntoResponse::into_response)
    }

    /// CORS, after the end: a page may read `response` when the client that it named registered the page's origin.
    pub(super) fn allow_origin(&self, mut response: Response) -> Response {
        cors::allow_client(&mut response, &self.headers, self.client.as_deref());
        response
    }

    fn authorization(&self) -> Result<Option<&str>> {
        let text = self.headers.get(AUTHORIZATION).map(HeaderValue::to_str).transpose();
        text.map_err(|_| Error::new(Code::InvalidClient, "The Authorization header is not ASCII."))
    }
}

/// A preflight for an endpoint of clients.
pub(super) async fn preflight(State(oauth): State<Arc<OAuth>>, headers: HeaderMap) -> Response {
    cors::preflight_client(&oauth.services.clients, &headers, "POST")
}

/// A preflight for a public document.
pub(super) async fn preflight_public() -> Response {
    cors::preflight(Some(&HeaderValue::from_static("*")), "GET")
}
