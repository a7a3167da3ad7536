//! What pages say: one catalogue for each language.

/// The texts of one language. `{…}` stands for what is filled in.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is named for what it says")]
pub struct Texts {
    /// BCP 47.
    pub language: &'static str,
    pub skip: &'static str,
    /// Before the title of a page whose form was refused.
    pub error: &'static str,
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
    pub consent_device: &'static str,
    pub consent_as: &'static str,
    pub consent_wants: &'static str,
    pub consent_own: &'static str,
    pub consent_api: &'static str,
    pub consent_nothing: &'static str,
    /// The OpenID scopes, by name ([`crate::claims::SCOPES`]).
    pub scopes: &'static [(&'static str, &'static str)],
    pub lasts_title: &'static str,
    pub lasts_online: &'static str,
    pub lasts_offline: &'static str,
    pub seconds: &'static str,
    pub minutes: &'static str,
    pub hours: &'static str,
    pub days: &'static str,
    pub unverified_title: &'static str,
    pub unverified: &'static str,
    pub approve: &'static str,
    pub deny: &'static str,
    pub consent_each_time: &'static str,
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
    pub show_of: &'static str,
    pub granted: &'static str,
    pub granted_nothing: &'static str,
    pub granted_hosts: &'static str,
    pub granted_offline: &'static str,
    pub granted_effect: &'static str,
    pub withdraw: &'static str,
    pub withdraw_of: &'static str,
    pub withdrawn: &'static str,
    pub elsewhere: &'static str,
    pub elsewhere_nowhere: &'static str,
    pub elsewhere_since: &'static str,
    pub last_used: &'static str,
    pub sign_out_there: &'static str,
    pub sign_out_there_of: &'static str,
    pub sign_out_at: &'static str,
    pub signed_out_there: &'static str,
    pub signed_out_at: &'static str,
    pub change_password_of: &'static str,
    pub change_password_effect: &'static str,
    pub present_password: &'static str,
    pub new_password: &'static str,
    pub new_password_again: &'static str,
    pub new_password_hint: &'static str,
    pub change_password_submit: &'static str,
    pub back_to_account: &'static str,
    pub present_password_wrong: &'static str,
    pub passwords_differ: &'static str,
    pub password_changed: &'static str,
    pub weak_short: &'static str,
    pub weak_long: &'static str,
    pub weak_control: &'static str,
    pub weak_personal: &'static str,
    pub weak_common: &'static str,
    pub weak_pattern: &'static str,
    pub front: &'static str,
    pub front_text: &'static str,
    pub logout_title: &'static str,
    pub logout_asks: &'static str,
    pub logout_asks_of: &'static str,
    pub logout_own: &'static str,
    pub logout_several: &'static str,
    pub sign_out_all: &'static str,
    pub logout_effect: &'static str,
    pub logout_stay: &'static str,
    pub signed_out: &'static str,
    pub signed_out_text: &'static str,
    pub signed_out_still: &'static str,
    pub not_signed_out: &'static str,
    pub not_signed_out_text: &'static str,
    pub perhaps_signed_out: &'static str,
    pub perhaps_signed_out_text: &'static str,
    pub problem: &'static str,
    pub request_id: &'static str,
    pub problem_note: &'static str,
    pub flow_ended: &'static str,
    pub flow_ended_text: &'static str,
    pub cross_site: &'static str,
    pub cross_site_text: &'static str,
    pub busy: &'static str,
    pub busy_text: &'static str,
    pub too_many: &'static str,
    pub too_many_text: &'static str,
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
    error: "Error",
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
    consent_device: "It will send you to a program on your device ({host}).",
    consent_as: "You are signed in as {username}.",
    consent_wants: "{client} will be able to",
    consent_own: "About you",
    consent_api: "Act for you, as far as this API lets it",
    consent_nothing: "It asks for nothing but to know that you signed in.",
    scopes: &[
        ("openid", "Know who you are, by an identifier"),
        ("profile", "See your name and profile"),
        ("email", "See your e-mail address"),
        ("address", "See your postal address"),
        ("phone", "See your phone number"),
        ("groups", "See the groups that you are in"),
        ("offline_access", "Keep this access while you are away"),
    ],
    lasts_title: "For how long",
    lasts_online: "While you are signed in here; each time for {time} at most.",
    lasts_offline: "Until you take it back, also while you are away; for {time} at most.",
    seconds: "{n} seconds",
    minutes: "{n} minutes",
    hours: "{n} hours",
    days: "{n} days",
    unverified_title: "Nobody has checked this application",
    unverified: "It registered itself here. Go on only if you know who runs it and began this yourself.",
    approve: "Allow",
    deny: "Do not allow",
    consent_each_time: "Another program on your device could take the place of {client}. That is why you are asked each \
                        time.",
    consent_note: "If you do not allow it, {client} learns only that you said no. What you allow, you can take back \
                   at any time:",
    back: "Back to the application",
    back_text: "Your browser goes on by itself. If it does not, press the button.",
    go_on: "Continue",
    home: "Your account",
    signed_in_here: "Signed in at this browser",
    since: "since {time}\u{a0}UTC",
    sign_out: "Sign out",
    logout_title: "Sign out?",
    logout_asks: "{client} asks to sign you out here.",
    logout_asks_of: "{client} asks to sign out {username} here.",
    logout_own: "You are about to sign out here.",
    logout_several: "Several accounts are signed in at this browser. Sign out one of them, or all.",
    sign_out_all: "Sign out all of them",
    logout_effect: "Applications may ask you to sign in again.",
    logout_stay: "To stay signed in, close this page.",
    signed_out: "You are signed out",
    signed_out_text: "You can close this page.",
    signed_out_still: "Still signed in at this browser: {names}",
    not_signed_out: "You were not signed out",
    not_signed_out_text: "The application that sent you here made a mistake. Nothing happened: whoever was signed in \
                          still is. You can sign out at {account}.",
    perhaps_signed_out: "You may not be signed out yet",
    perhaps_signed_out_text: "We cannot tell just now whether it is done. Please try again in a moment.",
    sign_out_of: "Sign out {username}",
    add_account: "Sign in with another account",
    show_of: "Show the account of {username}",
    granted: "Applications with access to {username}",
    granted_nothing: "No application has access.",
    granted_hosts: "at {hosts}",
    granted_offline: "Also while you are away.",
    granted_effect: "An application loses its access at once, and has to ask again. What it has learned already, it may \
                     keep.",
    withdraw: "Take back access",
    withdraw_of: "Take back access of {client}",
    withdrawn: "The access of {client} is taken back.",
    elsewhere: "Other browsers where {username} is signed in",
    elsewhere_nowhere: "There is no other.",
    elsewhere_since: "Signed in {time}\u{a0}UTC",
    last_used: "last used {time}\u{a0}UTC",
    sign_out_there: "Sign out there",
    sign_out_there_of: "Sign out there, where you signed in {time}",
    sign_out_at: "Sign out there, at {browser}, where you signed in {time}",
    signed_out_there: "You are signed out there.",
    signed_out_at: "You are signed out at {browser}.",
    change_password_of: "Change the password of {username}",
    change_password_effect: "You stay signed in here. Everywhere else you are signed out, and applications lose their \
                             access.",
    present_password: "Current password",
    new_password: "New password",
    new_password_again: "New password, once more",
    new_password_hint: "At least {n} characters. Several words that do not belong together make a good one.",
    change_password_submit: "Change the password",
    back_to_account: "Back to the account",
    present_password_wrong: "That is not the current password. After several wrong tries there is a pause.",
    passwords_differ: "The new password is not the same both times.",
    password_changed: "The password is changed.",
    weak_short: "The new password needs {n} characters at least.",
    weak_long: "The new password may have {n} characters at most.",
    weak_control: "The new password holds characters that nobody can type.",
    weak_personal: "The new password is little more than your username, name or e-mail address, which others try first.",
    weak_common: "The new password is made of words that others try first.",
    weak_pattern: "The new password is made of repetitions or rows of characters, which others try first.",
    front: "Begin at an application",
    front_text: "Applications send you here to sign in. Go to the application that you want to use, and begin there.",
    problem: "Something went wrong",
    request_id: "Request",
    problem_note: "If it happens again, give this id to whoever runs this service:",
    flow_ended: "This sign-in has ended",
    flow_ended_text: "It took too long, was finished already, or began in another browser. Go back to the application \
                      that you want to use, and begin again there.",
    cross_site: "This did not come from our page",
    cross_site_text: "Another site sent this request, or your browser does not say which one did. Nothing was done. \
                      If you meant to do it, open the page here yourself, and do it there.",
    busy: "We cannot answer just now",
    busy_text: "Please try again in a moment. Whether what you did last was stored is not certain.",
    too_many: "Too many sign-ins from your network",
    too_many_text: "More people than we allow at one time have begun to sign in from the network that you use. Nothing was \
                    changed. Please try again in a few minutes, or from another network.",
    not_found: "There is no such page",
    not_found_text: "Check the address, or go back to where you came from.",
    bad_request: "This request cannot be used",
    bad_request_text: "The application that sent you here made a mistake, or your sign-in has ended or began in another \
                       browser. Go back to the application that you want to use, and begin again there.",
    our_fault: "Something went wrong on our side",
    our_fault_text: "It has been written down. Please try again later.",
};

/// Every language there is.
#[cfg(not(test))]
const ALL: &[&Texts] = &[&ENGLISH];
/// Tests have a second one to choose.
#[cfg(test)]
const ALL: &[&Texts] = &[&ENGLISH, &tests::GERMAN];

/// The languages that there are (OpenID Connect Discovery §3, `ui_locales_supported`).
pub fn languages() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|texts| texts.language)
}

impl Texts {
    /// What a scope of ours means.
    pub fn scope(&self, token: &str) -> Option<&'static str> {
        self.scopes.iter().find(|(known, _)| *known == token).map(|(_, words)| *words)
    }
}

/// The language tags in a `ui_locales` (OpenID Connect Core §3.1.2.1), the preferred first; by the alphabet of BCP 47,
/// and 20 of them.
pub fn tags(text: &str) -> Vec<String> {
    let is_tag = |word: &&str| {
        (1..=35).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.split(' ').filter(is_tag).take(20).map(str::to_owned).collect()
}

/// The texts for somebody who prefers `languages`, the first the most: those of `ui_locales`, then of
/// `Accept-Language`. `de-AT` is content with `de`.
pub fn choose<'l>(languages: impl IntoIterator<Item = &'l str>) -> &'static Texts {
    let primary = |tag: &str| tag.split('-').next().unwrap_or_default().trim().to_ascii_lowercase();
    let known = |tag: &str| ALL.iter().find(|texts| texts.language == primary(tag)).copied();
    languages.into_iter().find_map(known).unwrap_or(&ENGLISH)
}

/// The words of an `Accept-Language` or `Accept` header (RFC 9110 §12.5), the preferred first.
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

    /// Enough of a second language to tell whether a page speaks it.
    pub(super) static GERMAN: Texts = Texts {
        language: "de",
        sign_in: "Anmelden",
        consent_title: "Zugriff erlauben?",
        signed_out: "Sie sind abgemeldet",
        bad_request: "Diese Anfrage taugt nichts",
        ..ENGLISH
    };

    #[test]
    fn rfc9110_12_5_4_the_preferred_language_comes_first() {
        assert_eq!(accepted("de-AT, en;q=0.5, fr;q=0.8, xx;q=0"), ["de-AT", "fr", "en"]);
        assert_eq!(choose(accepted("tlh, en-GB;q=0.1")).language, "en");
        assert_eq!(choose([]).language, "en");
        let chosen = |languages: &[&str]| choose(languages.iter().copied()).language;
        assert_eq!(chosen(&["fr", "DE-at", "en"]), "de");
        assert_eq!(chosen(&["en-GB", "de"]), "en");
        assert_eq!(chosen(&["fr", "tlh"]), "en");
    }

    #[test]
    fn oidc_core_3_1_2_1_what_is_no_language_is_passed_over() {
        assert_eq!(tags("de-AT x_y  en <b>"), ["de-AT", "en"]);
        assert_eq!(tags(&vec!["en"; 100].join(" ")).len(), 20);
        assert!(tags("").is_empty() && tags(&"e".repeat(36)).is_empty());
    }

    #[test]
    fn every_language_has_words_for_every_scope_of_ours() {
        for texts in ALL {
            for scope in crate::claims::SCOPES {
                assert!(texts.scope(scope).is_some_and(|words| !words.is_empty()), "{}: {scope}", texts.language);
            }
            assert_eq!(texts.scopes.len(), crate::claims::SCOPES.len());
        }
    }

    /// T-90: what is filled in is not read again.
    #[test]
    fn what_is_filled_in_stays_as_it_is() {
        assert_eq!(fill("a {x} b {y}", &[("x", "{y}"), ("y", "1")]), "a {y} b 1");
        assert_eq!(fill("{none}a {", &[]), "a ");
    }
}
