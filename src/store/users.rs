//! Rows of people.

use sqlx::FromRow;

use super::conn::{MANY, execute, fetch, fetch_rows, filled, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;

/// A person, by what stands behind it.
macro_rules! select {
    ($($rest:expr),+) => {
        concat!(
            "SELECT sub, username, username_key, profile, password, password_changed_at, password_import, disabled, \
             managed_by, created_at, updated_at FROM users ",
            $($rest),+
        )
    };
}

/// [`MANY`] values.
macro_rules! many {
    () => {
        "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, \
         $25, $26, $27, $28, $29, $30, $31, $32)"
    };
}

queries! {
    FIND = select!("WHERE sub = $1");
    FIND_MANY = select!("WHERE sub IN ", many!());
    BY_USERNAME = select!("WHERE username_key = $1");
    BY_USERNAMES = select!("WHERE username_key IN ", many!());
    PAGE = select!("WHERE username_key > $1 ORDER BY username_key LIMIT $2");
    OF_MAKER = select!("WHERE managed_by = $1 AND sub > $2 ORDER BY sub LIMIT $3");
    ADD = "INSERT INTO users (sub, username, username_key, profile, password, password_changed_at, password_import, \
           disabled, managed_by, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $9, $6, $7, $8, $9, $9)";
    // Where they are as they were read.
    SAVE = "UPDATE users SET username = $2, profile = $3, disabled = $4, managed_by = $5, updated_at = $6 \
            WHERE sub = $1 AND updated_at = $7";
    SET_PASSWORD = "UPDATE users SET password = $2, password_import = $3, password_changed_at = $4, updated_at = $4 \
                    WHERE sub = $1";
    REHASH = "UPDATE users SET password = $3 WHERE sub = $1 AND password = $2";
    // Takes the row's lock: who changes the password or switches the person off comes before or after, not between.
    STANDS = "UPDATE users SET updated_at = updated_at WHERE sub = $1 AND password = $2 AND NOT disabled \
              RETURNING COALESCE(password_changed_at, 0)";
    SET_DISABLED = "UPDATE users SET disabled = $2, updated_at = $3 WHERE sub = $1 AND disabled <> $2";
    LOCK = "UPDATE users SET updated_at = updated_at WHERE sub = $1 AND updated_at = $2";
    DELETE = "DELETE FROM users WHERE sub = $1";
}

/// A person as they are kept. It has no `Debug`: it holds the hash of a password.
#[derive(Clone, FromRow)]
pub struct UserRow {
    /// The subject: a UUID.
    pub sub: String,
    /// What they sign in by, as they write it.
    pub username: String,
    /// The same as it is compared.
    pub username_key: String,
    /// `Profile` as JSON.
    pub profile: String,
    /// Argon2id, as a PHC string; a person without one cannot sign in by password.
    pub password: Option<String>,
    /// When they got it.
    pub password_changed_at: Option<Micros>,
    /// SHA-256 of the PHC string that it was imported as, as base64url; `None` where it was not.
    pub password_import: Option<String>,
    /// Whether they are switched off.
    pub disabled: bool,
    /// A word of `ManagedBy`.
    pub managed_by: String,
    /// When they were made.
    pub created_at: Micros,
    /// When they were last changed.
    pub updated_at: Micros,
}

/// The person with this subject.
pub async fn find(conn: &mut Conn, sub: &str) -> Result<Option<UserRow>, StoreError> {
    fetch!(optional, conn, FIND, sub)
}

/// Those people whose subjects are among `subs`, in any order.
pub async fn find_all(conn: &mut Conn, subs: &[&str]) -> Result<Vec<UserRow>, StoreError> {
    let mut found = Vec::new();
    for subs in subs.chunks(MANY) {
        let rows: Vec<UserRow> = match subs {
            [sub] => fetch!(all, conn, FIND, *sub)?,
            subs => fetch_rows!(conn, FIND_MANY, [], filled(subs), |sub| [*sub])?,
        };
        found.extend(rows);
    }
    Ok(found)
}

/// The person with this username, as it is compared.
pub async fn by_username(conn: &mut Conn, username_key: &str) -> Result<Option<UserRow>, StoreError> {
    fetch!(optional, conn, BY_USERNAME, username_key)
}

/// Those people whose usernames, as they are compared, are among `keys`.
pub async fn by_usernames(conn: &mut Conn, keys: &[String]) -> Result<Vec<UserRow>, StoreError> {
    let mut found = Vec::new();
    for keys in keys.chunks(MANY) {
        let rows: Vec<UserRow> = fetch_rows!(conn, BY_USERNAMES, [], filled(keys), |key| [key])?;
        found.extend(rows);
    }
    Ok(found)
}

/// The next `limit` people behind the username `after`, as it is compared (at first: empty), by username.
pub async fn page(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<UserRow>, StoreError> {
    fetch!(all, conn, PAGE, after, limit)
}

/// The next `limit` people behind the subject `after` (at first: empty) whom `managed_by` made.
pub async fn of_maker(conn: &mut Conn, managed_by: &str, after: &str, limit: i64) -> Result<Vec<UserRow>, StoreError> {
    fetch!(all, conn, OF_MAKER, managed_by, after, limit)
}

/// Makes a person; a username that another one has is a conflict.
pub async fn add(tx: &mut Tx, user: &UserRow) -> Result<(), StoreError> {
    let UserRow { sub, username, username_key, profile, password, password_import, disabled, managed_by, .. } = user;
    let now = tx.now();
    execute!(tx, ADD, sub, username, username_key, profile, password, password_import, *disabled, managed_by, now)
        .map(drop)
}

/// Replaces everything of a person but the password and the username's compared form, if they are still as `user` was
/// read (by `updated_at`): false when somebody has changed them since.
pub async fn save(tx: &mut Tx, user: &UserRow) -> Result<bool, StoreError> {
    let UserRow { sub, username, profile, disabled, managed_by, updated_at, .. } = user;
    let now = tx.now();
    Ok(execute!(tx, SAVE, sub, username, profile, *disabled, managed_by, now, updated_at)? == 1)
}

/// Gives a person another password, as a PHC string; `import` is what [`UserRow::password_import`] says of it.
pub async fn set_password(tx: &mut Tx, sub: &str, phc: &str, import: Option<&str>) -> Result<(), StoreError> {
    let now = tx.now();
    execute!(tx, SET_PASSWORD, sub, phc, import, now).map(drop)
}

/// Hashes the password of a person anew, if `old` is its hash still: it is the same password.
pub async fn rehash(tx: &mut Tx, sub: &str, old: &str, new: &str) -> Result<(), StoreError> {
    execute!(tx, REHASH, sub, old, new).map(drop)
}

/// Switches a person off or on. Whether that was new.
pub async fn set_disabled(tx: &mut Tx, sub: &str, disabled: bool) -> Result<bool, StoreError> {
    let now = tx.now();
    execute!(tx, SET_DISABLED, sub, disabled, now).map(|rows| rows > 0)
}

/// Whether a person has not been changed since `updated_at`; until the transaction ends nobody else changes them.
pub async fn lock(tx: &mut Tx, sub: &str, updated_at: Micros) -> Result<bool, StoreError> {
    Ok(execute!(tx, LOCK, sub, updated_at)? == 1)
}

/// Removes a person with all they have.
pub async fn delete(tx: &mut Tx, sub: &str) -> Result<(), StoreError> {
    execute!(tx, DELETE, sub).map(drop)
}

/// If the person is on and has this password (its hash) still, since when they have it; until the transaction ends it
/// stays so.
pub async fn stands(tx: &mut Tx, sub: &str, hash: &str) -> Result<Option<Micros>, StoreError> {
    let row: Option<(Micros,)> = fetch!(optional, tx, STANDS, sub, hash)?;
    Ok(row.map(|(since,)| since))
}
