//! Reading a form from a request.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::BodyExt;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::form::Form;

/// A form is some kilobytes: who takes longer to send it only holds a place.
const BODY_TIME: Duration = Duration::from_secs(3);

/// Reads and parses an `application/x-www-form-urlencoded` body of at most `limit` bytes.
///
/// That may take three seconds.
///
/// # Errors
/// 400 `invalid_request` for another content type, a content encoding, a broken body, and what [`Form::parse`]
/// refuses; 413 for a body over `limit`.
pub async fn read_form(headers: &HeaderMap, body: Body, limit: usize) -> Result<Form> {
    read_form_with(headers, body, limit, Form::parse).await?
}

/// The same with another parser, which says for itself what it refuses.
///
/// # Errors
/// As [`read_form`], less those of parsing.
pub async fn read_form_with<T>(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    parse: impl FnOnce(&[u8]) -> T,
) -> Result<T> {
    if !headers.get(CONTENT_TYPE).is_some_and(|value| is_form(value.as_bytes())) {
        return Err(Error::invalid_request("The body must be application/x-www-form-urlencoded."));
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Error::invalid_request("The body must not have a Content-Encoding."));
    }
    let read = tokio::time::timeout(BODY_TIME, read_body(body, limit, parse)).await;
    read.unwrap_or_else(|_| Err(Error::invalid_request("The body took too long.")))
}

/// Reads a body of at most `limit` bytes and hands it to `then`. What had to be copied together is wiped after.
///
/// # Errors
/// 400 when the connection breaks or the framing is wrong, 413 for a body over `limit`.
async fn read_body<T>(mut body: Body, limit: usize, then: impl FnOnce(&[u8]) -> T) -> Result<T> {
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let first = next_data(&mut body).await?.unwrap_or_default();
    if first.len() > limit {
        return Err(too_large());
    }
    // The usual body comes in one piece and is parsed where it lies.
    if body.is_end_stream() {
        return Ok(then(&first));
    }
    let mut whole = Zeroizing::new(Vec::with_capacity(limit.min(first.len().max(2048) * 2)));
    whole.extend_from_slice(&first);
    while let Some(more) = next_data(&mut body).await? {
        if whole.len() + more.len() > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&more);
    }
    Ok(then(&whole))
}

async fn next_data(body: &mut Body) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cause| Error::invalid_request("The body broke off.").because(cause))?;
        // Trailers carry nothing that we read.
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn too_large() -> Error {
    Error::new(Code::RequestTooLarge, "The body is too large.")
}

/// The media type itself, with no parameter or `charset=utf-8` (some libraries add it; it changes nothing).
fn is_form(value: &[u8]) -> bool {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    let Some((start, rest)) = value.split_at_checked(FORM.len()) else { return false };
    if !start.eq_ignore_ascii_case(FORM) {
        return false;
    }
    let rest = rest.trim_ascii();
    let Some(parameter) = rest.strip_prefix(b";") else { return rest.is_empty() };
    let parameter = parameter.trim_ascii();
    parameter.eq_ignore_ascii_case(b"charset=utf-8") || parameter.eq_ignore_ascii_case(b"charset=\"utf-8\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    async fn read(content_type: &str, body: &str, limit: usize) -> Result<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        read_form(&headers, Body::from(body.to_owned()), limit).await
    }

    #[tokio::test]
    async fn rfc6749_3_2_only_a_form_is_read() {
        let form = "application/x-www-form-urlencoded";
        for good in [
            form,
            "Application/X-WWW-form-urlencoded",
            &format!("{form};charset=UTF-8"),
            &format!("{form} ; charset=\"utf-8\""),
        ] {
            assert_eq!(read(good, "a=b", 99).await.unwrap().get("a"), Some("b"), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "application/json",
            &format!("{form}x"),
            &format!("{form};"),
            &format!("{form}; charset=utf-16"),
            &format!("{form}, text/plain"),
        ] {
            assert_eq!(read(bad, "a=b", 99).await.unwrap_err().code.status(), 400, "{bad}");
        }
        assert_eq!(read_form(&HeaderMap::new(), Body::from("a=b"), 99).await.unwrap_err().code.status(), 400);
    }

    #[tokio::test]
    async fn a_compressed_form_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(read_form(&headers, Body::from("a=b"), 99).await.unwrap_err().code.status(), 400);
    }

    /// Sooner than the whole request, which may wait for others.
    #[tokio::test]
    async fn f16_a_body_that_stops_halfway_is_waited_for_3_seconds() {
        use futures_util::{StreamExt as _, stream};
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let begun = stream::iter([Ok::<_, std::convert::Infallible>("a=")]);
        let body = Body::from_stream(begun.chain(stream::pending()));
        let read = tokio::time::timeout(BODY_TIME * 3, read_form(&headers, body, 99)).await;
        let refused = read.expect("it is waited for without end").unwrap_err();
        assert_eq!((refused.code.status(), refused.detail()), (400, "The body took too long."));
    }

    #[tokio::test]
    async fn t180_a_body_over_the_limit_is_413() {
        let form = "application/x-www-form-urlencoded";
        assert!(read(form, "a=bcd", 5).await.is_ok());
        assert_eq!(read(form, "a=bcde", 5).await.unwrap_err().code.status(), 413);
    }
}
