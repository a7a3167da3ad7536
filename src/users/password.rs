//! What may be a password: long, and not one that others try first. No rules of composition (NIST SP 800-63B §3.1.1.2).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use unicode_normalization::UnicodeNormalization;

use crate::error::Result;
use crate::secret::{NoRandomness, Secret, random, sha256};

/// The most characters of a password, counted and never cut off; more are refused before anything is hashed.
pub const MAX_LENGTH: usize = 256;
/// What must be left of a password when its common words, repetitions and rows count as one or two characters each.
const LEAST_LEFT: usize = 8;

/// Why a password is refused, in words that say how to choose a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// Too few characters.
    #[error("takes {0} characters at least; several words that do not belong together make a good one")]
    Short(usize),
    /// Too many characters.
    #[error("takes {MAX_LENGTH} characters at most")]
    Long,
    /// Nobody can type it.
    #[error("takes no control characters")]
    Control,
    /// Words of the person themselves.
    #[error("is little more than your username, name or e-mail address or this service's name, which others try first")]
    Personal,
    /// Well-known words, however decorated.
    #[error("is made of words that are tried first everywhere")]
    Common,
    /// The same again, or a row of keys or letters.
    #[error("is made of repetitions or rows of characters, which are tried first everywhere")]
    Pattern,
}

/// A password as it is hashed, whatever keyboard it was typed at: composed (NFC), and every space a plain one (RFC 8265
/// §4.2, `OpaqueString`; NIST SP 800-63B §3.1.1.2). Its length is that of this form.
pub fn prepare(typed: &Secret) -> Secret {
    let typed = typed.expose();
    let space = |c: char| match c {
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        other => other,
    };
    // No character grows beyond three times its length: the buffer is not moved, and leaves no copy behind.
    let mut prepared = String::with_capacity(typed.len() * 3);
    prepared.extend(typed.chars().map(space).nfc());
    Secret::new(prepared)
}

/// By what a PHC string is known again that a password was imported as: base64url of its SHA-256.
pub fn import(phc: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(sha256(phc.as_bytes()))
}

/// Checks a password that a person chose, and gives it as it is to be hashed ([`prepare`]). `own` are their username,
/// name and e-mail address, and what this service is called.
///
/// # Errors
/// Why it is refused.
pub fn check<'o>(typed: &Secret, own: impl IntoIterator<Item = &'o str>, min_length: usize) -> Result<Secret, Weak> {
    let prepared = prepare(typed);
    let password = prepared.expose();
    let length = password.chars().count();
    if length > MAX_LENGTH {
        return Err(Weak::Long);
    }
    if length < min_length {
        return Err(Weak::Short(min_length));
    }
    if password.chars().any(char::is_control) {
        return Err(Weak::Control);
    }
    let own: Vec<Vec<char>> = own.into_iter().flat_map(own_words).collect();
    let (left, worst) = weigh(&plain(password), &own);
    if left >= LEAST_LEFT { Ok(prepared) } else { Err(worst) }
}

/// A password that we make: 125 random bits in 25 characters that nobody mistakes for one another.
///
/// # Errors
/// Without randomness.
pub fn generate() -> Result<Secret, NoRandomness> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes: [u8; 25] = random()?;
    let mut text = String::with_capacity(29);
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 && at % 5 == 0 {
            text.push('-');
        }
        text.push(char::from(LETTERS[usize::from(byte % 32)]));
    }
    Ok(Secret::new(text))
}

/// Lower case, without what parts words, and letters for the digits and signs that stand for them.
fn plain(text: &str) -> Vec<(char, char)> {
    let letter = |c: char| match c {
        '0' => 'o',
        '1' | '!' | '|' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' | '+' => 't',
        '8' => 'b',
        '9' => 'g',
        other => other,
    };
    let parts = |c: &char| c.is_whitespace() || matches!(c, '-' | '_' | '.' | ',');
    text.chars().filter(|c| !parts(c)).flat_map(char::to_lowercase).map(|c| (c, letter(c))).collect()
}

/// The words of a name or an address, from four letters on; the whole of it, too.
fn own_words(text: &str) -> Vec<Vec<char>> {
    let lower = text.to_lowercase();
    let parts = lower.split(|c: char| !c.is_alphanumeric()).chain([lower.as_str()]);
    parts
        .filter(|part| part.chars().count() >= 4)
        .map(|part| plain(part).into_iter().map(|(_, c)| c).collect())
        .collect()
}

/// How many characters are left when each part that is easily guessed counts as few, and which such part was longest.
fn weigh(text: &[(char, char)], own: &[Vec<char>]) -> (usize, Weak) {
    let (mut at, mut left) = (0, 0);
    let (mut worst, mut longest) = (Weak::Pattern, 0);
    while at < text.len() {
        let rest = &text[at..];
        let words = own.iter().filter(|word| begins(rest, word)).map(Vec::len).max().unwrap_or(0);
        let common = COMMON.split_ascii_whitespace().map(|word| shared(rest, word)).max().unwrap_or(0);
        let pattern = run(rest).max(row(rest)).max(walk(rest)).max(alternating(rest)).max(again(text, at));
        // A row of three and a word of four are nothing yet; the longest explanation is a guesser's.
        let found = [(words, 1, Weak::Personal), (common, 2, Weak::Common), (pattern, 1, Weak::Pattern)];
        let best = found.into_iter().max_by_key(|(length, ..)| *length).filter(|(length, ..)| *length >= 3);
        let (length, weight, why) = best.unwrap_or((1, 1, worst));
        if best.is_some() && length > longest {
            (worst, longest) = (why, length);
        }
        (at, left) = (at + length, left + weight);
    }
    (left, worst)
}

fn begins(text: &[(char, char)], word: &[char]) -> bool {
    text.len() >= word.len() && text.iter().zip(word).all(|((_, c), known)| c == known)
}

/// How much of a common word begins the text: all of it, or the beginning of a longer one that the text ends in.
fn shared(text: &[(char, char)], word: &str) -> usize {
    let same = text.iter().zip(word.chars()).take_while(|((_, c), known)| c == known).count();
    if same == word.len() || same == text.len() && same >= 5 { same } else { 0 }
}

/// How often the first character stands there.
fn run(text: &[(char, char)]) -> usize {
    text.iter().take_while(|c| Some(c.0) == text.first().map(|first| first.0)).count()
}

/// How long a row of the alphabet, of the digits or of a keyboard begins the text, in either direction.
fn row(text: &[(char, char)]) -> usize {
    let along = |row: &&str| {
        let step = |pair: &[(char, char)]| {
            let (from, to) = (row.find(pair[0].0)?, row.find(pair[1].0)?);
            (from.abs_diff(to) == 1).then_some(from < to)
        };
        let Some(first) = text.get(..2).and_then(step) else { return 0 };
        1 + text.windows(2).take_while(|pair| step(pair) == Some(first)).count()
    };
    ROWS.iter().map(along).max().unwrap_or(0)
}

/// How long a walk from key to neighbouring key begins the text, on one keyboard. Short ones are in many words.
fn walk(text: &[(char, char)]) -> usize {
    let on = |keys: &[&str; 4]| {
        let place = |c: char| keys.iter().enumerate().find_map(|(row, keys)| Some((row, keys.find(c)?)));
        let touch = |pair: &[(char, char)]| {
            let (Some(from), Some(to)) = (place(pair[0].0), place(pair[1].0)) else { return false };
            // Each row lies half a key to the right of the one above.
            let (upper, lower) = if from.0 <= to.0 { (from, to) } else { (to, from) };
            match lower.0 - upper.0 {
                0 => upper.1.abs_diff(lower.1) <= 1,
                1 => lower.1 == upper.1 || lower.1 + 1 == upper.1,
                _ => false,
            }
        };
        1 + text.windows(2).take_while(|pair| touch(pair)).count()
    };
    KEYBOARDS.iter().map(on).max().filter(|length| *length >= 6).unwrap_or(0)
}

/// How long two rows that take turns begin the text: `a1b2c3`, `112233`.
fn alternating(text: &[(char, char)]) -> usize {
    let near = |three: &[(char, char)]| {
        let (from, to) = (three[0].0, three[2].0);
        from.is_ascii_alphanumeric() && to.is_ascii_alphanumeric() && u32::from(from).abs_diff(u32::from(to)) <= 1
    };
    let turns = text.windows(3).take_while(|three| near(three)).count();
    if turns >= 4 { turns + 2 } else { 0 }
}

/// How much of the text from `at` on stood there before, if it is three characters at least.
fn again(text: &[(char, char)], at: usize) -> usize {
    let same =
        |from: usize| (0..text.len() - at).take_while(|n| from + n < at && text[from + n].0 == text[at + n].0).count();
    (0..at).map(same).max().filter(|length| *length >= 3).unwrap_or(0)
}

const ROWS: &[&str] = &[
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "qsdfghjklm",
    "wxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "zaq1xsw2cde3vfr4bgt5nhy6mju7ki8lo9p0",
    "qazwsxedcrfvtgbyhnujmikolp",
    "zaqxswcdevfrbgtnhymjukilop",
    "qaywsxedcrfvtgbzhnujmikolp",
    "aqwzsxedcrfvtgbyhnujikolpm",
    "!qaz@wsx#edc$rfv%tgb^yhn&ujm*ik(ol)p",
    "!@#$%^&*()",
];

/// Keys as they lie: QWERTY, QWERTZ, AZERTY.
const KEYBOARDS: &[[&str; 4]] = &[
    ["1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"],
    ["1234567890", "qwertzuiop", "asdfghjkl", "yxcvbnm"],
    ["1234567890", "azertyuiop", "qsdfghjklm", "wxcvbn"],
];

/// Words that guessers try first, as they are read after [`plain`], of four letters at least, parted by white space.
const COMMON: &str = include_str!("common.txt");

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 4] = ["ada.lovelace", "Ada Lovelace", "ada@analytical.example", "Larkspur Bank"];

    fn judged(password: &str) -> Result<(), Weak> {
        check(&Secret::new(password), OWN, 15).map(drop)
    }

    #[test]
    fn nist_800_63b_what_is_long_and_not_guessed_first_is_taken() {
        for good in [
            "lantern gravel tuba omelette",
            "9vK#q2Lm!xR7wTz",
            "un vieux bateau qui chante",
            "ein Kamel trinkt Tee um vier",
            "ключ под старым ковром",
            "zebra-Quark-Ofen-88-Mond",
            &"lantern gravel tuba ".repeat(12),
        ] {
            assert_eq!(judged(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_guessers_try_first_is_refused_with_the_reason() {
        for (bad, why) in [
            ("short", Weak::Short(15)),
            ("fourteen chars", Weak::Short(15)),
            ("passwordpassword", Weak::Common),
            ("P@ssw0rd1234567", Weak::Common),
            ("Password2026!!!", Weak::Common),
            ("iloveyouiloveyou", Weak::Common),
            ("correct horse battery staple", Weak::Common),
            ("correcthorsebatterystaple", Weak::Common),
            ("aaaaaaaaaaaaaaaaaaaa", Weak::Pattern),
            ("abcabcabcabcabcabc", Weak::Pattern),
            ("abcdefghijklmnopqrst", Weak::Pattern),
            ("123456789012345678", Weak::Pattern),
            ("qwertyuiopasdfghjkl", Weak::Pattern),
            ("poiuytrewqlkjhgfdsa", Weak::Pattern),
            ("ada.lovelace12345", Weak::Personal),
            ("AdaLovelaceLovelace", Weak::Personal),
            ("analytical1234567", Weak::Personal),
            ("qazwsxedcrfvtgbyhn", Weak::Pattern),
            ("!QAZ2wsx#EDC4rfv", Weak::Pattern),
            ("zaq1xsw2cde3vfr4", Weak::Pattern),
            ("1q2w3e4r5t6y7u8i", Weak::Pattern),
            ("qwedsazxcvfrtgbnhy", Weak::Pattern),
            ("azertyuiopqsdfghjklm", Weak::Pattern),
            ("a1b2c3d4e5f6g7h8", Weak::Pattern),
            ("112233445566778899", Weak::Pattern),
            ("aaabbbcccdddeeefff", Weak::Pattern),
            ("thequickbrownfoxjumps", Weak::Common),
            ("The quick brown fox jumps over the lazy dog", Weak::Common),
            ("tobeornottobethatis", Weak::Common),
            ("To be, or not to be, that is the question!", Weak::Common),
            ("LoremIpsumDolorSitAmet", Weak::Common),
            ("maytheforcebewithyou", Weak::Common),
            ("Larkspur Bank larkspur", Weak::Personal),
            ("my id.analytical login", Weak::Personal),
            ("tab\there and there and", Weak::Control),
        ] {
            assert_eq!(judged(bad), Err(why), "{bad}");
        }
    }

    /// RFC 8265 §4.2: what is typed on another keyboard is the same password; nothing else is.
    #[test]
    fn rfc8265_4_2_passwords_are_composed_and_spaces_are_spaces() {
        let same =
            |one: &str, other: &str| prepare(&Secret::new(one)).expose() == prepare(&Secret::new(other)).expose();
        assert!(same("cafe\u{301} au lait", "caf\u{e9} au lait"));
        assert!(same("\u{1112}\u{1161}\u{11ab}", "\u{d55c}"));
        assert!(same("a\u{a0}b\u{3000}c\u{2009}d", "a b c d"));
        for (one, other) in
            [("a", "A"), ("\u{fb03}", "ffi"), ("\u{ff41}", "a"), (" a", "a"), ("a\tb", "a b"), ("e\u{301}", "e")]
        {
            assert!(!same(one, other), "{one:?} {other:?}");
        }
        // The length is that of what is hashed.
        let typed: String = "e\u{301}\u{4e00}".repeat(MAX_LENGTH / 2);
        assert_eq!(prepare(&Secret::new(typed.as_str())).expose().chars().count(), MAX_LENGTH);
        assert_eq!(judged(&format!("{typed}x")), Err(Weak::Long));
    }

    /// T-183: counted, in characters and not in bytes, and never cut off.
    #[test]
    fn t183_length_is_counted_in_characters() {
        let long: String = ('\u{4e00}'..).take(MAX_LENGTH).collect();
        assert_eq!(judged(&long), Ok(()));
        assert_eq!(judged(&format!("{long}x")), Err(Weak::Long));
    }

    #[test]
    fn what_we_make_passes_our_own_rules() {
        for _ in 0..200 {
            let made = generate().unwrap();
            assert_eq!(judged(made.expose()), Ok(()), "{}", made.expose());
        }
    }
}
