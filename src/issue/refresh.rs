//! Refresh tokens: `swr_` and base64url of grant id (16 bytes) ‖ generation (4, big-endian) ‖ HMAC-SHA256 (32). Nothing
//! of one is kept but the generation, and no made-up one costs a query: the code is its checksum.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::keys::{MacKeys, Purpose};
use crate::secret::{Id, Secret};

const PREFIX: &str = "swr_";

/// What a refresh token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// The grant that it renews.
    pub(super) grant: Id,
    /// How many tokens of the grant came before it, and one.
    pub(super) generation: u32,
}

impl RefreshToken {
    /// Reads a token of ours; `None` for everything else.
    pub fn open(keys: &MacKeys, text: &str) -> Option<Self> {
        let bytes: [u8; 52] = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?.try_into().ok()?;
        let (grant, rest) = bytes.split_first_chunk::<16>()?;
        let (generation, code) = rest.split_first_chunk::<4>()?;
        let genuine = keys.verify(Purpose::Refresh, &[grant, generation], code);
        genuine.then_some(Self { grant: *grant, generation: u32::from_be_bytes(*generation) })
    }

    /// The token's text.
    pub(super) fn seal(self, keys: &MacKeys) -> Secret {
        let generation = self.generation.to_be_bytes();
        let code = keys.sign(Purpose::Refresh, &[&self.grant, &generation]);
        let bytes = [&self.grant[..], &generation, &code].concat();
        Secret::new(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }
}
