//! What may be a password: long, and not one that others try first. No rules of composition (NIST SP 800-63B §3.1.1.2).

use crate::error::Result;
use crate::secret::{NoRandomness, Secret, random};

/// Characters, counted and never cut off; more are refused before anything is hashed.
pub(super) const MAX_LENGTH: usize = 256;
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
    #[error("is little more than your username, name or e-mail address, which others try first")]
    Personal,
    /// Well-known words, however decorated.
    #[error("is made of words that are tried first everywhere")]
    Common,
    /// The same again, or a row of keys or letters.
    #[error("is made of repetitions or rows of characters, which are tried first everywhere")]
    Pattern,
}

/// Checks a password that a person chose. `own` are their username, name and e-mail address.
///
/// # Errors
/// Why it is refused.
pub fn check<'o>(password: &str, own: impl IntoIterator<Item = &'o str>, min_length: usize) -> Result<(), Weak> {
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
    if left >= LEAST_LEFT { Ok(()) } else { Err(worst) }
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
        let common =
            COMMON.split_ascii_whitespace().filter(|word| begins_with(rest, word)).map(str::len).max().unwrap_or(0);
        let pattern = run(rest).max(row(rest)).max(again(text, at));
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

fn begins_with(text: &[(char, char)], word: &str) -> bool {
    text.len() >= word.len() && text.iter().zip(word.chars()).all(|((_, c), known)| *c == known)
}

/// How often the first character stands there.
fn run(text: &[(char, char)]) -> usize {
    text.iter().take_while(|c| Some(c.0) == text.first().map(|first| first.0)).count()
}

/// How long a row of the alphabet, of the digits or of a keyboard begins the text, in either direction.
fn row(text: &[(char, char)]) -> usize {
    let step = |pair: &[(char, char)]| -> Option<(usize, i64)> {
        ROWS.iter().enumerate().find_map(|(at, row)| {
            let place = |c: char| row.find(c).and_then(|place| i64::try_from(place).ok());
            let distance = place(pair[1].0)? - place(pair[0].0)?;
            (distance.abs() == 1).then_some((at, distance))
        })
    };
    let Some(first) = text.get(..2).and_then(step) else { return 0 };
    1 + text.windows(2).take_while(|pair| step(pair) == Some(first)).count()
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
    "1qaz",
    "2wsx",
    "3edc",
    "4rfv",
    "5tgb",
    "!@#$%^&*()",
];

/// Words that guessers try first, as they are read after [`plain`], of four letters at least, parted by white space.
const COMMON: &str = include_str!("common.txt");

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 3] = ["ada.lovelace", "Ada Lovelace", "ada@analytical.example"];

    fn judged(password: &str) -> Result<(), Weak> {
        check(password, OWN, 15)
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
            ("tab\there and there and", Weak::Control),
        ] {
            assert_eq!(judged(bad), Err(why), "{bad}");
        }
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
