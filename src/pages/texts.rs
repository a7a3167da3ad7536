//! What pages say: one catalogue for each language.

/// The texts of one language. `{…}` stands for what is filled in.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is named for what it says")]
pub struct Texts {
    /// BCP 47.
    pub language: &'static str,
    pub skip: &'static str,
    pub sign_in: &'static str,
    pub sign_in_to: &'static str,
    pub username: &'static str,
    pub password: &'static str,
    pub submit: &'static str,
    pub sign_in_failed: &'static str,
    pub out_of_date: &'static str,
    pub choose: &'static str,
    pub choose_for: &'static str,
    pub another: &'static str,
    pub back_to_accounts: &'static str,
    pub again: &'static str,
    pub consent_title: &'static str,
    pub consent_asks: &'static str,
    pub consent_host: &'static str,
    pub consent_as: &'static str,
    pub consent_wants: &'static str,
    pub consent_own: &'static str,
    pub consent_nothing: &'static str,
    pub lasts_title: &'static str,
    pub lasts_online: &'static str,
    pub lasts_offline: &'static str,
    pub unverified_title: &'static str,
    pub unverified: &'static str,
    pub approve: &'static str,
    pub deny: &'static str,
    pub consent_note: &'static str,
    pub back: &'static str,
    pub back_text: &'static str,
    pub go_on: &'static str,
    pub home: &'static str,
    pub signed_in_here: &'static str,
    pub since: &'static str,
    pub sign_out: &'static str,
    pub sign_out_of: &'static str,
    pub add_account: &'static str,
    pub logout_title: &'static str,
    pub logout_asks: &'static str,
    pub logout_own: &'static str,
    pub logout_effect: &'static str,
    pub logout_stay: &'static str,
    pub signed_out: &'static str,
    pub signed_out_text: &'static str,
    pub not_signed_out: &'static str,
    pub not_signed_out_text: &'static str,
    pub problem: &'static str,
    pub request_id: &'static str,
    pub problem_note: &'static str,
    pub flow_ended: &'static str,
    pub flow_ended_text: &'static str,
    pub cross_site: &'static str,
    pub cross_site_text: &'static str,
    pub busy: &'static str,
    pub busy_text: &'static str,
    pub not_found: &'static str,
    pub not_found_text: &'static str,
    pub bad_request: &'static str,
    pub bad_request_text: &'static str,
    pub our_fault: &'static str,
    pub our_fault_text: &'static str,
}

/// English, which everything falls back to.
static ENGLISH: Texts = Texts {
    language: "en",
    skip: "Skip to the content",
    sign_in: "Sign in",
    sign_in_to: "to continue to {client}",
    username: "Username",
    password: "Password",
    submit: "Sign in",
    sign_in_failed: "That did not work. Check the username and the password. After several wrong tries, signing in \
                     pauses for a while.",
    out_of_date: "This page was out of date, so nothing was done. Please try once more.",
    choose: "Choose an account",
    choose_for: "to continue to {client}",
    another: "Use another account",
    back_to_accounts: "Choose from the accounts signed in here",
    again: "Please enter your password again.",
    consent_title: "Allow access?",
    consent_asks: "{client} asks for access to your account.",
    consent_host: "It will send you to {host}.",
    consent_as: "You are signed in as {username}.",
    consent_wants: "{client} will be able to",
    consent_own: "About you",
    consent_nothing: "It asks for nothing but to know that you signed in.",
    lasts_title: "For how long",
    lasts_online: "While you are signed in here; each time for {minutes} at most.",
    lasts_offline: "Until you take it back, also while you are away.",
    unverified_title: "Nobody has checked this application",
    unverified: "It registered itself here. Go on only if you know who runs it and began this yourself.",
    approve: "Allow",
    deny: "Do not allow",
    consent_note: "If you do not allow it, {client} learns only that you said no.",
    back: "Back to the application",
    back_text: "Your browser goes on by itself. If it does not, press the button.",
    go_on: "Continue",
    home: "Your account",
    signed_in_here: "Signed in at this browser",
    since: "since {time} UTC",
    sign_out: "Sign out",
    logout_title: "Sign out?",
    logout_asks: "{client} asks to sign you out here.",
    logout_own: "You are about to sign out here.",
    logout_effect: "Applications that you use with this account may ask you to sign in again.",
    logout_stay: "To stay signed in, close this page.",
    signed_out: "You are signed out",
    signed_out_text: "You can close this page.",
    not_signed_out: "You were not signed out",
    not_signed_out_text: "Nothing happened: who was signed in still is.",
    sign_out_of: "Sign out {username}",
    add_account: "Sign in with another account",
    problem: "Something went wrong",
    request_id: "Request",
    problem_note: "If it happens again, give this id to who runs this service:",
    flow_ended: "This sign-in has ended",
    flow_ended_text: "It took too long, was finished already, or began in another browser. Go back to the application \
                      that you want to use, and begin again there.",
    cross_site: "This did not come from our page",
    cross_site_text: "Another site sent this request, or your browser does not say which one did. Nothing was done.",
    busy: "We cannot answer just now",
    busy_text: "Nothing was changed. Please try again in a moment.",
    not_found: "There is no such page",
    not_found_text: "Check the address, or go back to where you came from.",
    bad_request: "This request cannot be used",
    bad_request_text: "The application that sent you here made a mistake, or your sign-in has ended or began in another \
                       browser. Go back to the application that you want to use, and begin again there.",
    our_fault: "Something went wrong on our side",
    our_fault_text: "It has been written down. Please try again later.",
};

/// Every language there is.
const ALL: &[&Texts] = &[&ENGLISH];

/// The texts for somebody who prefers `languages`, the first the most: those of `ui_locales`, then of
/// `Accept-Language`. `de-AT` is content with `de`.
pub fn choose<'l>(languages: impl IntoIterator<Item = &'l str>) -> &'static Texts {
    let primary = |tag: &str| tag.split('-').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = |tag: &str| ALL.iter().find(|texts| texts.language == primary(tag)).copied();
    languages.into_iter().find_map(known).unwrap_or(&ENGLISH)
}

/// The languages of an `Accept-Language` header (RFC 9110 §12.5.4), the preferred first.
pub fn accepted(header: &str) -> Vec<&str> {
    let mut weighted: Vec<(&str, u32)> = header
        .split(',')
        .take(20)
        .filter_map(|item| {
            let (tag, rest) = item.split_once(';').unwrap_or((item, ""));
            let weight = rest.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.parse::<f32>().ok())?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
            let weight = (weight.clamp(0.0, 1.0) * 1000.0) as u32;
            (weight > 0).then_some((tag.trim(), weight))
        })
        .collect();
    weighted.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    weighted.into_iter().map(|(tag, _)| tag).collect()
}

/// `text` with what stands in braces filled in.
pub fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len() + 32);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        rest = "";
        let Some((name, tail)) = after.split_once('}') else { break };
        filled.push_str(values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value));
        rest = tail;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9110_12_5_4_the_preferred_language_comes_first() {
        assert_eq!(accepted("de-AT, en;q=0.5, fr;q=0.8, xx;q=0"), ["de-AT", "fr", "en"]);
        assert_eq!(choose(accepted("tlh, en-GB;q=0.1")).language, "en");
        assert_eq!(choose([]).language, "en");
    }

    /// T-90: what is filled in is not read again.
    #[test]
    fn what_is_filled_in_stays_as_it_is() {
        assert_eq!(fill("a {x} b {y}", &[("x", "{y}"), ("y", "1")]), "a {y} b 1");
        assert_eq!(fill("{none}a {", &[]), "a ");
    }
}
