//! What a browser is called, for a person who is to tell their own apart.

/// Browsers by a word of their `User-Agent` (RFC 9110 §10.1.5). Many name others whom they resemble, so the most special
/// comes first.
const BROWSERS: &[(&str, &str)] = &[
    ("SamsungBrowser/", "Samsung Internet"),
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];

/// Systems, in the same way.
const SYSTEMS: &[(&str, &str)] = &[
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
];

/// The browser and the system that a `User-Agent` names, in words of our own: `Firefox, Windows`. `None` where it names
/// none that we know. It is what the browser says, and nothing rests on it.
pub fn agent(header: &str) -> Option<String> {
    let of =
        |known: &[(&str, &'static str)]| known.iter().find(|(word, _)| header.contains(word)).map(|(_, name)| *name);
    match (of(BROWSERS), of(SYSTEMS)) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => Some(one.to_owned()),
        (Some(browser), Some(system)) => Some(format!("{browser}, {system}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_has_a_short_name_in_words_of_ours() {
        const WEBKIT: &str = "AppleWebKit/537.36 (KHTML, like Gecko)";
        for (header, name) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0".to_owned(), "Firefox, Linux"),
            (format!("Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0.0.0 Safari/537.36"), "Chrome, Windows"),
            (format!("Mozilla/5.0 (Windows NT 10.0) {WEBKIT} Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0"), "Edge, Windows"),
            (format!("Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/126.0.0.0 Mobile Safari/537.36"), "Chrome, Android"),
            (format!("Mozilla/5.0 (X11; CrOS x86_64 14541) {WEBKIT} Chrome/126.0.0.0 Safari/537.36"), "Chrome, ChromeOS"),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15".to_owned(),
                "Safari, macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 FxiOS/127.0 Mobile Safari/605.1.15"
                    .to_owned(),
                "Firefox, iPhone",
            ),
            ("Lynx/2.9.0 (Linux)".to_owned(), "Linux"),
        ] {
            assert_eq!(agent(&header).as_deref(), Some(name), "{header}");
        }
        for unknown in ["", "curl/8.0", "<script>"] {
            assert_eq!(agent(unknown), None, "{unknown}");
        }
    }
}
