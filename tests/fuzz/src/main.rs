//! One program for all targets: `SEALWRIGHT_FUZZ` names the one to run, `SEALWRIGHT_FUZZ_SEEDS` the folder for its seeds,
//! which is given to libFuzzer as a corpus. The words are written beside it, as `FOLDER.dict`.

#![no_main]

#[path = "../../it/targets.rs"]
mod targets;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use targets::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("SEALWRIGHT_FUZZ").unwrap_or_default();
    let names = TARGETS.map(|target| target.name).join(" ");
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("SEALWRIGHT_FUZZ is one of: {names}"))
});

/// libFuzzer reads its corpus and its words after this.
fn write_seeds() {
    let Some(folder) = std::env::var_os("SEALWRIGHT_FUZZ_SEEDS").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&folder).expect("the folder for seeds can be made");
    for (at, seed) in (TARGET.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{at}")), seed).expect("a seed can be written");
    }
    let mut words = String::new();
    for word in TARGET.words {
        let escaped = word.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "\\x{byte:02x}");
            text
        });
        let _ = writeln!(words, "\"{escaped}\"");
    }
    std::fs::write(folder.with_extension("dict"), words).expect("the words can be written");
}

libfuzzer_sys::fuzz_target!(init: write_seeds(), |bytes: &[u8]| (TARGET.run)(bytes));
