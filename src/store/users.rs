//! Rows of people.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;

queries! {
    FIND = "SELECT sub, username, username_key, profile, password, disabled, managed_by, created_at, updated_at \
            FROM users WHERE sub = $1";
    BY_USERNAME = "SELECT sub, username, username_key, profile, password, disabled, managed_by, created_at, updated_at \
                   FROM users WHERE username_key = $1";
    LIST = "SELECT sub, username, username_key, profile, password, disabled, managed_by, created_at, updated_at \
            FROM users ORDER BY username_key, sub";
    ADD = "INSERT INTO users (sub, username, username_key, profile, password, password_changed_at, disabled, \
           managed_by, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $8, $6, $7, $8, $8)";
    SAVE = "UPDATE users SET username = $2, profile = $3, disabled = $4, managed_by = $5, updated_at = $6 WHERE sub = $1";
    SET_PASSWORD = "UPDATE users SET password = $2, password_changed_at = $3, updated_at = $3 WHERE sub = $1";
    // Takes the row's lock: who changes the password or switches the person off comes before or after, not between.
    STANDS = "UPDATE users SET updated_at = updated_at WHERE sub = $1 AND password = $2 AND NOT disabled";
    SET_DISABLED = "UPDATE users SET disabled = $2, updated_at = $3 WHERE sub = $1 AND disabled <> $2";
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

/// The person with this username, as it is compared.
pub async fn by_username(conn: &mut Conn, username_key: &str) -> Result<Option<UserRow>, StoreError> {
    fetch!(optional, conn, BY_USERNAME, username_key)
}

/// All people, by username.
pub async fn list(conn: &mut Conn) -> Result<Vec<UserRow>, StoreError> {
    fetch!(all, conn, LIST)
}

/// Makes a person; a username that another one has is a conflict.
pub async fn add(tx: &mut Tx, user: &UserRow) -> Result<(), StoreError> {
    let UserRow { sub, username, username_key, profile, password, disabled, managed_by, .. } = user;
    let now = tx.now();
    execute!(tx, ADD, sub, username, username_key, profile, password, *disabled, managed_by, now).map(drop)
}

/// Replaces everything of a person but the password and the username's compared form.
pub async fn save(tx: &mut Tx, user: &UserRow) -> Result<(), StoreError> {
    let UserRow { sub, username, profile, disabled, managed_by, .. } = user;
    let now = tx.now();
    execute!(tx, SAVE, sub, username, profile, *disabled, managed_by, now).map(drop)
}

/// Gives a person another password, as a PHC string.
pub async fn set_password(tx: &mut Tx, sub: &str, phc: &str) -> Result<(), StoreError> {
    let now = tx.now();
    execute!(tx, SET_PASSWORD, sub, phc, now).map(drop)
}

/// Switches a person off or on. Whether that was new.
pub async fn set_disabled(tx: &mut Tx, sub: &str, disabled: bool) -> Result<bool, StoreError> {
    let now = tx.now();
    execute!(tx, SET_DISABLED, sub, disabled, now).map(|rows| rows > 0)
}

/// Removes a person with all they have.
pub async fn delete(tx: &mut Tx, sub: &str) -> Result<(), StoreError> {
    execute!(tx, DELETE, sub).map(drop)
}

/// Whether the person is on and has this password (its hash) still; until the transaction ends it stays so.
pub async fn stands(tx: &mut Tx, sub: &str, hash: &str) -> Result<bool, StoreError> {
    Ok(execute!(tx, STANDS, sub, hash)? == 1)
}
