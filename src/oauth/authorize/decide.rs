//! Who answers, of those signed in at a browser, and what must happen before: pure, so that every case has its test.

use super::checks::essential_acr;
use crate::clock::Micros;
use crate::error::{Code, Error};
use crate::flow::{Asked, Flow};
use crate::session::SignIn;
use crate::wire::Prompt;

/// What comes next.
#[derive(Debug)]
pub(super) enum Who<'s> {
    /// This person answers.
    Is(&'s SignIn),
    /// Somebody has to prove who they are, or to choose: both happen at the sign-in page.
    Ask,
    /// The client is told.
    Refused(Error),
}

/// Decides for `asked`; `flow` is the one that it has become, if it has; `hinted` is whom `login_hint` means, of
/// `sign_ins`.
pub(super) fn who<'s>(
    asked: &Asked,
    flow: Option<&Flow>,
    sign_ins: &'s [SignIn],
    hinted: Option<&'s SignIn>,
    now: Micros,
) -> Who<'s> {
    let begun_at = flow.map(|flow| flow.begun_at);
    let chosen = flow.and_then(|flow| flow.sid.as_ref());
    let found = match chosen {
        // Ended meanwhile: somebody must sign in again.
        Some(sid) => sign_ins.iter().find(|sign_in| sign_in.sid == *sid),
        None => match candidates(asked, sign_ins, hinted) {
            Ok(found) => found,
            Err(code) if asked.prompt.contains(&Prompt::None) => return refused(code),
            Err(_) => return Who::Ask,
        },
    };
    let Some(sign_in) = found else { return silent_or(asked, Code::LoginRequired) };
    // OpenID Connect Core §3.1.2.2: the server must not reply for another person than the one who is asked for.
    if asked.sub.as_ref().is_some_and(|sub| sign_in.sub != *sub) {
        return refused(Code::LoginRequired);
    }
    if !asked.is_recent(sign_in.auth_time, begun_at, now) {
        return silent_or(asked, Code::LoginRequired);
    }
    if !reaches(asked, sign_in) {
        return refused(Code::UnmetAuthenticationRequirements);
    }
    Who::Is(sign_in)
}

/// Whom of those signed in the request means, before anybody has chosen in it.
fn candidates<'s>(
    asked: &Asked,
    sign_ins: &'s [SignIn],
    hinted: Option<&'s SignIn>,
) -> Result<Option<&'s SignIn>, Code> {
    if asked.prompt.contains(&Prompt::SelectAccount) {
        return Err(Code::AccountSelectionRequired);
    }
    if let Some(sub) = &asked.sub {
        return Ok(sign_ins.iter().find(|sign_in| sign_in.sub == *sub));
    }
    if asked.login_hint.is_some() {
        return Ok(hinted);
    }
    match sign_ins {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(Code::AccountSelectionRequired),
    }
}

/// OpenID Connect Core §5.5.1.1: an essential `acr` that was not reached is a failed attempt.
fn reaches(asked: &Asked, sign_in: &SignIn) -> bool {
    let values = essential_acr(asked);
    values.is_empty() || values.iter().any(|value| sign_in.acr.as_deref() == Some(value))
}

fn silent_or<'s>(asked: &Asked, code: Code) -> Who<'s> {
    if asked.prompt.contains(&Prompt::None) { refused(code) } else { Who::Ask }
}

fn refused<'s>(code: Code) -> Who<'s> {
    Who::Refused(Error::new(
        code,
        match code {
            Code::AccountSelectionRequired => "An account must be chosen.",
            Code::UnmetAuthenticationRequirements => "The demanded authentication context was not reached.",
            _ => "The person must sign in.",
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::Wanted;
    use crate::clock::SECOND;
    use crate::wire::ResponseMode;

    const NOW: Micros = 1000 * SECOND;

    fn sign_in(sub: &str, seconds_ago: Micros) -> SignIn {
        SignIn {
            username: String::new(),
            sid: format!("sid-{sub}"),
            sub: sub.into(),
            auth_time: NOW - seconds_ago * SECOND,
            acr: Some("1".into()),
            amr: vec!["pwd".into()],
            last_used_at: NOW,
        }
    }

    fn asked(prompt: &[Prompt]) -> Asked {
        let mut asked = Asked::of("a", "https://rp.test/cb", ResponseMode::Query);
        asked.prompt = prompt.to_vec();
        asked
    }

    /// The person's `sub`, `ask`, or the error.
    fn said(asked: &Asked, sign_ins: &[SignIn], hinted: Option<usize>) -> String {
        match who(asked, None, sign_ins, hinted.map(|at| &sign_ins[at]), NOW) {
            Who::Is(sign_in) => sign_in.sub.clone(),
            Who::Ask => "ask".into(),
            Who::Refused(error) => error.code.as_str().into(),
        }
    }

    #[test]
    fn oidc_core_3_1_2_3_prompt_none_never_asks() {
        let none = asked(&[Prompt::None]);
        let two = [sign_in("u", 5), sign_in("v", 5)];
        for (request, expected) in
            [(&none, ["login_required", "u", "account_selection_required"]), (&asked(&[]), ["ask", "u", "ask"])]
        {
            assert_eq!(said(request, &[], None), expected[0]);
            assert_eq!(said(request, &two[..1], None), expected[1]);
            assert_eq!(said(request, &two, None), expected[2]);
        }
        let old = Asked { max_age: Some(4), ..none.clone() };
        assert_eq!(said(&old, &two[..1], None), "login_required");
        let hint = Asked { login_hint: Some("w".into()), ..none };
        assert_eq!(said(&hint, &two[..1], None), "login_required");
    }

    #[test]
    fn prompts_ask_even_who_is_signed_in() {
        let one = [sign_in("u", 0)];
        for prompt in [Prompt::Login, Prompt::SelectAccount] {
            assert_eq!(said(&asked(&[prompt]), &one, None), "ask", "{prompt}");
        }
        assert_eq!(said(&asked(&[Prompt::Consent]), &one, None), "u");
        assert_eq!(said(&Asked { max_age: Some(0), ..asked(&[]) }, &[sign_in("u", 1)], None), "ask");
        assert_eq!(said(&Asked { max_age: Some(9), ..asked(&[]) }, &one, None), "u");
    }

    #[test]
    fn a_hint_chooses_among_several_and_nobody_else() {
        let two = [sign_in("u", 5), sign_in("v", 5)];
        assert_eq!(said(&Asked { sub: Some("v".into()), ..asked(&[]) }, &two, None), "v");
        assert_eq!(said(&Asked { sub: Some("w".into()), ..asked(&[]) }, &two, None), "ask");
        let hint = Asked { login_hint: Some("v@a.test".into()), ..asked(&[]) };
        assert_eq!(said(&hint, &two, Some(1)), "v");
        assert_eq!(said(&hint, &two[..1], None), "ask");
    }

    fn flow(asked: &Asked, sid: &str, begun_seconds_ago: Micros) -> Flow {
        serde_json::from_value(serde_json::json!({
            "asked": asked, "begun_at": NOW - begun_seconds_ago * SECOND, "sid": sid, "decision": null, "browser": "b",
        }))
        .unwrap()
    }

    #[test]
    fn t104_what_was_asked_for_holds_until_it_happened_in_this_flow() {
        let two = [sign_in("u", 5), sign_in("v", 100)];
        let resumed = |asked: &Asked, sid: &str| {
            let flow = flow(asked, sid, 10);
            match who(&flow.asked, Some(&flow), &two, None, NOW) {
                Who::Is(sign_in) => sign_in.sub.clone(),
                Who::Ask => "ask".into(),
                Who::Refused(error) => error.code.as_str().into(),
            }
        };
        for prompt in [Prompt::Login, Prompt::SelectAccount] {
            assert_eq!(resumed(&asked(&[prompt]), "sid-u"), "u", "{prompt}");
        }
        assert_eq!(resumed(&asked(&[Prompt::Login]), "sid-v"), "ask");
        assert_eq!(resumed(&asked(&[Prompt::SelectAccount]), "sid-v"), "v");
        assert_eq!(resumed(&asked(&[]), "sid-gone"), "ask");
        let max_age = Asked { max_age: Some(0), ..asked(&[]) };
        assert_eq!(resumed(&max_age, "sid-u"), "u");
        assert_eq!(resumed(&max_age, "sid-v"), "ask");
        // Another person signed in than the one the client meant.
        assert_eq!(resumed(&Asked { sub: Some("v".into()), ..asked(&[]) }, "sid-u"), "login_required");
    }

    #[test]
    fn oidc_core_5_5_1_1_an_essential_acr_is_reached_or_refused() {
        let one = [sign_in("u", 5)];
        for (essential, values, expected) in [
            (true, &["1"][..], "u"),
            (true, &["2", "1"], "u"),
            (true, &["2"], "unmet_authentication_requirements"),
            (true, &[], "u"),
            (false, &["2"], "u"),
        ] {
            let mut request = asked(&[]);
            let values = (!values.is_empty()).then(|| values.iter().map(|value| (*value).into()).collect());
            request.claims.id_token.insert("acr".into(), Some(Wanted { essential, value: None, values }));
            assert_eq!(said(&request, &one, None), expected);
        }
    }
}
