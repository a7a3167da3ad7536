//! How pages look: name, colour, logo and style sheet, made once at the start.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::config::Config;
use crate::secret::sha256;

/// The style sheet, before the colours of this issuer.
const CSS: &str = include_str!("../static/sealwright.css");
/// The darkest ground that text stands on with a dark scheme, and the one of cards (static/sealwright.css).
const DARK_GROUND: [u8; 3] = [0x1b, 0x1f, 0x27];
/// WCAG 2.2, 1.4.3: contrast of text.
const READABLE: f64 = 4.5;
const MOST_LOGO: u64 = 64 * 1024;

/// A file that browsers keep: its name changes with its content.
pub struct Asset {
    /// Its name, under `/static/`.
    pub name: String,
    /// Its media type.
    pub content_type: &'static str,
    /// What is in it.
    pub body: Vec<u8>,
}

/// How the pages of one issuer look.
pub struct Look {
    /// Whose pages these are.
    pub name: String,
    /// The path that every link begins with: the issuer's.
    pub base: String,
    /// The style sheet.
    pub css: Asset,
    /// The logo, if there is one.
    pub logo: Option<Asset>,
}

impl Look {
    /// As configured.
    ///
    /// # Errors
    /// When the logo cannot be read, is too large, or is neither SVG nor PNG.
    pub fn new(config: &Config) -> Result<Self, String> {
        let branding = &config.branding;
        let accent = color(&branding.color).unwrap_or([0x23, 0x48, 0xa5]);
        let css = format!(":root{{--accent:{};--accent-on-dark:{}}}\n{CSS}", hex(accent), hex(lightened(accent)));
        Ok(Self {
            name: branding.name.trim().to_owned(),
            base: config.issuer.as_ref().map(|issuer| issuer.path().to_owned()).unwrap_or_default(),
            css: asset("css", "text/css; charset=utf-8", css.into_bytes()),
            logo: branding.logo.as_deref().map(logo).transpose()?,
        })
    }

    /// Where an asset is.
    pub fn link(&self, asset: &Asset) -> String {
        format!("{}/static/{}", self.base, asset.name)
    }
}

fn asset(extension: &str, content_type: &'static str, body: Vec<u8>) -> Asset {
    let hash = BASE64_URL_SAFE_NO_PAD.encode(&sha256(&body)[..12]);
    Asset { name: format!("{hash}.{extension}"), content_type, body }
}

fn logo(path: &Path) -> Result<Asset, String> {
    let shown = path.display();
    let failed = |cause| format!("branding.logo: {shown} cannot be read: {cause}");
    if std::fs::metadata(path).map_err(failed)?.len() > MOST_LOGO {
        return Err(format!("branding.logo: {shown} is larger than {} KiB", MOST_LOGO / 1024));
    }
    let body = std::fs::read(path).map_err(failed)?;
    if body.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(asset("png", "image/png", body));
    }
    let start = String::from_utf8_lossy(&body[..body.len().min(1024)]).to_lowercase();
    if start.contains("<svg") {
        return Ok(asset("svg", "image/svg+xml", body));
    }
    Err(format!("branding.logo: {shown} is neither SVG nor PNG"))
}

/// Whether `text` is a colour that white letters can be read on.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check_color(text: &str) -> Result<(), String> {
    let Some(rgb) = color(text) else { return Err(format!("{text:?} is not a colour; write it as #2348a5")) };
    let reached = contrast(rgb, [255; 3]);
    if reached >= READABLE {
        return Ok(());
    }
    Err(format!("{text} has a contrast of {reached:.1} against white, and letters need {READABLE}; take a darker one"))
}

fn color(text: &str) -> Option<[u8; 3]> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii())?;
    let part = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    Some([part(0)?, part(2)?, part(4)?])
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The same colour, mixed with white until it can be read on a dark ground.
fn lightened(rgb: [u8; 3]) -> [u8; 3] {
    let mixed = |white: u16| {
        rgb.map(|part| {
            let part = u16::from(part);
            u8::try_from(part + (255 - part) * white / 100).unwrap_or(u8::MAX)
        })
    };
    (0..=100).map(mixed).find(|candidate| contrast(*candidate, DARK_GROUND) >= READABLE + 1.0).unwrap_or([255; 3])
}

/// WCAG 2.2, "contrast ratio": 1 to 21.
fn contrast(a: [u8; 3], b: [u8; 3]) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// WCAG 2.2, "relative luminance".
fn luminance(rgb: [u8; 3]) -> f64 {
    let linear = |part: u8| {
        let part = f64::from(part) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wcag_1_4_3_colours_must_be_readable() {
        assert!((contrast([0; 3], [255; 3]) - 21.0).abs() < 0.01);
        for good in ["#2348a5", "#000000", "#B00020", "#767676"] {
            assert_eq!(check_color(good), Ok(()), "{good}");
        }
        for bad in ["#777777", "#ffcc00", "#fff", "red", "#12345g", "2348a5"] {
            assert!(check_color(bad).is_err(), "{bad}");
        }
        for dark in ["#000000", "#2348a5", "#003300"] {
            assert!(contrast(lightened(color(dark).unwrap()), DARK_GROUND) >= READABLE);
        }
    }
}
