//! What arrived, and whether there is anybody to answer: the client and its redirect URI come before everything else.

use std::sync::Arc;

use crate::clients::Client;
use crate::cx::Cx;
use crate::error::{Error, Result};
use crate::flow::Asked;
use crate::form::{self, Form};
use crate::pages::texts;
use crate::wire::ResponseMode;

/// The parameters of a request.
#[derive(Default)]
pub(super) struct Parameters {
    /// Those that could be read: all of them, or those that say where the refusal goes.
    pub form: Form,
    /// Why the others could not.
    pub unread: Option<Error>,
}

impl Parameters {
    /// Reads a query or a body. Where something is repeated or malformed, but not what says whom to answer, the
    /// client can still be told.
    pub(super) fn read(bytes: &[u8]) -> Self {
        match Form::parse(bytes) {
            Ok(form) => Self { form, unread: None },
            Err(wrong) => {
                let subsets: [&[&str]; 3] = [
                    &["client_id", "redirect_uri", "response_mode", "state", "ui_locales"],
                    &["client_id", "redirect_uri", "response_mode", "state"],
                    &["client_id", "redirect_uri"],
                ];
                let form = subsets.iter().find_map(|names| only(bytes, names)).unwrap_or_default();
                Self { form, unread: Some(wrong) }
            }
        }
    }

    /// The languages that the client asks for, the preferred first; also where it cannot be answered.
    pub(super) fn locales(&self) -> Vec<String> {
        texts::tags(self.form.get("ui_locales").unwrap_or_default())
    }
}

/// The parameters of these names, if they can be read.
fn only(bytes: &[u8], names: &[&str]) -> Option<Form> {
    let is_named = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        std::str::from_utf8(name).ok().and_then(form::decode).is_some_and(|name| names.contains(&name.as_str()))
    };
    let pairs: Vec<&[u8]> = bytes.split(|byte| *byte == b'&').filter(is_named).collect();
    Form::parse(&pairs.join(&b'&')).ok()
}

/// A request of a client that can be answered; nothing else of it is checked.
pub(super) struct Request {
    /// What arrived.
    pub parameters: Parameters,
    /// Who asks.
    pub client: Arc<Client>,
    /// Where the answer goes, and with which state.
    pub asked: Asked,
}

/// Finds the client and its redirect URI. Every entry point ends here: parameters by GET or POST today, pushed and
/// signed ones by reading theirs into [`Parameters`].
///
/// # Errors
/// One and the same 400 for every reason why nobody may be redirected (RFC 6749 §4.1.2.1); 503 when the database
/// cannot answer.
pub(super) async fn load(cx: &Cx<'_>, parameters: Parameters) -> Result<Request> {
    let form = &parameters.form;
    let (Some(client_id), Some(redirect_uri)) = (form.get("client_id"), form.get("redirect_uri")) else {
        return Err(nobody());
    };
    let client = answerable(cx, client_id, redirect_uri).await?;
    let mode = form.get("response_mode").and_then(|word| word.parse().ok()).filter(|mode| fits(*mode, redirect_uri));
    let mut asked = Asked::of(client_id, redirect_uri, mode.unwrap_or(ResponseMode::Query));
    asked.state = form.get("state").map(str::to_owned);
    Ok(Request { parameters, client, asked })
}

/// The client of this id, if it is there, switched on, and may be answered at `redirect_uri`.
///
/// # Errors
/// As [`load`].
pub(super) async fn answerable(cx: &Cx<'_>, client_id: &str, redirect_uri: &str) -> Result<Arc<Client>> {
    let client = cx.clients.get(client_id).await?;
    let known = |client: &Arc<Client>| !client.disabled && client.metadata.has_redirect_uri(redirect_uri);
    client.filter(known).ok_or_else(nobody)
}

/// A form can be posted to a web address only.
pub(super) fn fits(mode: ResponseMode, redirect_uri: &str) -> bool {
    mode != ResponseMode::FormPost || redirect_uri.starts_with("https:") || redirect_uri.starts_with("http:")
}

fn nobody() -> Error {
    Error::invalid_request("No client with this redirect URI.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_finds_its_way_when_another_parameter_is_repeated() {
        let read = |text: &str| Parameters::read(text.as_bytes());
        let whole = read("client_id=a&redirect_uri=b&scope=c");
        assert!(whole.unread.is_none() && whole.form.get("scope") == Some("c"));
        let repeated = read("client_id=a&redirect_uri=b&scope=c&scope=c&state=s&response_mode=fragment");
        assert!(repeated.unread.is_some());
        assert_eq!(repeated.form.get("client_id"), Some("a"));
        assert_eq!(repeated.form.get("state"), Some("s"));
        assert_eq!(repeated.form.get("scope"), None);
        assert_eq!(read("ui_locales=de-AT+en&scope=c&scope=c").locales(), ["de-AT", "en"]);
        let state = read("client_id=a&redirect_uri=b&state=s&st%61te=t");
        assert_eq!((state.form.get("redirect_uri"), state.form.get("state")), (Some("b"), None));
        for text in [
            "client_id=a&redirect_uri=b&redirect_uri=b",
            "client_id=a&client_id=a&redirect_uri=b",
            "client_id=a&redirect_uri=b&redirect%5Furi=c",
            "client_id=a&redirect_uri=%zz",
            "client_id=a&redirect_uri=b%00&x=%00",
        ] {
            let parameters = read(text);
            assert!(parameters.unread.is_some() && parameters.form.get("client_id").is_none(), "{text}");
        }
    }
}
