//! Rows that hold something sealed, whatever their table: what sealed them, and putting another seal on them.

use super::conn::{execute, fetch};
use super::{Conn, StoreError, Tx};

/// A table with a column `sealed`, and its statements.
#[derive(Clone, Copy)]
pub struct Table {
    count: &'static str,
    page: &'static str,
    replace: &'static str,
    named_by_text: bool,
}

/// What one master key seals in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The id of the master key, as it stands in the sealed values.
    pub sealed_by: Vec<u8>,
    /// How many rows.
    pub rows: i64,
}

/// Declares the tables: each one's name, and the column that names a row, with its type.
/// A sealed value is its version (1 byte), the id of its master key (8), and what is sealed; NULL is one that was dropped.
macro_rules! tables {
    ($($(#[doc = $doc:literal])+ $name:ident = $table:literal, $id:literal $kind:ident;)+) => {
        $(
            $(#[doc = $doc])+
            pub const $name: Table = Table {
                count: concat!(
                    "SELECT substr(sealed, 2, 8), COUNT(*) FROM ", $table, " WHERE sealed IS NOT NULL ",
                    "GROUP BY substr(sealed, 2, 8)"
                ),
                page: concat!(
                    "SELECT ", $id, ", sealed FROM ", $table, " WHERE substr(sealed, 2, 8) <> $1 AND ", $id, " > $2 ",
                    "ORDER BY ", $id, " LIMIT 50"
                ),
                replace: concat!("UPDATE ", $table, " SET sealed = $2 WHERE sealed = $1"),
                named_by_text: tables!(@$kind),
            };
        )+
        pub(super) const QUERIES: &[(&str, &str)] = &[$(
            (concat!("sealed::", $table, "::count"), $name.count),
            (concat!("sealed::", $table, "::page"), $name.page),
            (concat!("sealed::", $table, "::replace"), $name.replace),
        )+];
    };
    (@text) => { true };
    (@bytes) => { false };
}

tables! {
    /// Signing keys that sign, or will.
    SIGNING_KEYS = "signing_keys", "kid" text;
    /// Keys of message authentication codes.
    MAC_KEYS = "mac_keys", "id" bytes;
}

/// How many rows each master key seals.
pub async fn count(conn: &mut Conn, table: &Table) -> Result<Vec<Count>, StoreError> {
    let rows: Vec<(Vec<u8>, i64)> = fetch!(all, conn, table.count)?;
    Ok(rows.into_iter().map(|(sealed_by, rows)| Count { sealed_by, rows }).collect())
}

/// Up to 50 rows that another master key than `key` seals, from the one after `last` on: what names the row, and the
/// sealed value.
pub async fn not_under(
    conn: &mut Conn,
    table: &Table,
    key: &[u8],
    last: &[u8],
) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
    if !table.named_by_text {
        return fetch!(all, conn, table.page, key, last);
    }
    let rows: Vec<(String, Vec<u8>)> = fetch!(all, conn, table.page, key, String::from_utf8_lossy(last).as_ref())?;
    Ok(rows.into_iter().map(|(id, sealed)| (id.into_bytes(), sealed)).collect())
}

/// Puts `new` in the place of `old`, if that is still there: no two sealed values are the same. Whether it was.
pub async fn replace(tx: &mut Tx, table: &Table, old: &[u8], new: &[u8]) -> Result<bool, StoreError> {
    Ok(execute!(tx, table.replace, old, new)? > 0)
}
