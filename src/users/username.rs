//! Usernames: what is one, and when two are the same.

use unicode_normalization::UnicodeNormalization;

/// The most characters of one, before and after it is brought into its compared form.
const LONGEST: usize = 128;

/// A username that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("takes 1 to 128 visible characters without spaces")]
pub struct InvalidUsername;

/// What of a username is compared: without spaces around it, in one width and composition (NFKC), without case. Two
/// usernames that differ in nothing else are one. In the manner of RFC 8265 §3.3, `UsernameCaseMapped`; beyond its letters
/// and digits, symbols are taken as they are.
///
/// # Errors
/// What is no username: empty, over 128 characters, or with spaces, control characters, or characters that are not
/// seen or turn the writing around.
pub fn username_key(username: &str) -> Result<String, InvalidUsername> {
    let typed = username.trim();
    let key: String = typed.nfkc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc().collect();
    let fine = |text: &str| (1..=LONGEST).contains(&text.chars().count()) && !text.chars().any(is_hidden);
    // Neither what was typed may hide something, nor what it stands for: U+00A8 is a space with dots above.
    if fine(typed) && fine(&key) { Ok(key) } else { Err(InvalidUsername) }
}

/// What nobody sees or everybody sees differently: white space, control characters, what Unicode calls
/// `Default_Ignorable_Code_Point`, blank letters, and characters for private use.
fn is_hidden(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{e000}'..='\u{f8ff}')
        || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}')
        || matches!(c, '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        username_key(one).unwrap() == username_key(other).unwrap()
    }

    /// RFC 8265 §3.3: width, composition and case make no difference.
    #[test]
    fn usernames_compare_without_case_width_and_outer_spaces() {
        assert_eq!(username_key(" Ada@Example.com ").unwrap(), "ada@example.com");
        assert_eq!(username_key("ÅSA").unwrap(), "åsa");
        for (one, other) in [
            ("A\u{30a}sa", "åsa"),
            ("\u{212b}sa", "åsa"),
            ("ａｄａ", "Ada"),
            ("\u{212a}arl", "karl"),
            ("oﬃce", "OFFICE"),
            ("straße", "STRASSE"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
            ("ﾊﾝｶｸ", "ハンカク"),
        ] {
            assert!(same(one, other), "{one} {other}");
            let key = username_key(one).unwrap();
            assert_eq!(username_key(&key).as_ref(), Ok(&key), "the compared form is its own");
        }
        for (one, other) in [("åsa", "asa"), ("ada", "adа"), ("l", "1")] {
            assert!(!same(one, other), "{one} {other}");
        }
        for good in ["ada.lovelace", "o'neil", "名前", "ada+test@example.com", "नमस्ते", "\u{1f986}"] {
            assert!(username_key(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_is_not_seen_is_in_no_username() {
        for bad in ["", " ", "a b", "a\u{0}", "a\nb", "\u{a8}", "a\u{3000}b", &"x".repeat(129), &"\u{fdfa}".repeat(20)]
        {
            assert_eq!(username_key(bad), Err(InvalidUsername), "{bad:?}");
        }
        let hidden = "\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{17b4}\u{17b5}\u{180b}\u{180c}\u{180d}\u{180e}\u{180f}\u{200b}\
                      \u{200c}\u{200d}\u{200e}\u{200f}\u{202a}\u{202e}\u{2028}\u{2060}\u{2064}\u{2066}\u{2069}\u{206f}\
                      \u{2800}\u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{fffd}\u{ffff}\u{e000}\u{1bca0}\u{1d173}\
                      \u{e0001}\u{e0100}\u{f0000}\u{10ffff}";
        for c in hidden.chars() {
            assert_eq!(username_key(&format!("ad{c}a")), Err(InvalidUsername), "{:x}", u32::from(c));
        }
    }
}
