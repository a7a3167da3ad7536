//! What the database could not do, and how that is told.

use crate::error::Error;

/// What the database could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or cannot work: full, locked, gone. Nothing happened.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The outcome is unknown: the commit failed or nobody answered in time. It may have happened.
    #[error("the outcome of a change is unknown: {0}")]
    Unknown(String),
    /// The statement itself failed: a mistake of ours, or a row that another one forbids.
    #[error("a statement failed: {0}")]
    Statement(#[source] sqlx::Error),
    /// The database is not what this binary expects.
    #[error("{0}")]
    Unfit(String),
    /// The change was begun and undone, because of what this says to who asked for it.
    #[error(transparent)]
    Refused(Error),
}

impl StoreError {
    /// Whether a unique constraint refused a row.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Statement(sqlx::Error::Database(cause)) if cause.is_unique_violation())
    }

    /// The same for each of several who asked for one thing; why it failed goes on as text.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Unknown(text) => Self::Unknown(text.clone()),
            Self::Unavailable(text) => Self::Unavailable(text.clone()),
            cause => Self::Unavailable(cause.to_string()),
        }
    }

    /// Whether a statement named a table that is not there.
    pub(super) fn is_missing_table(&self) -> bool {
        let Self::Statement(sqlx::Error::Database(cause)) = self else { return false };
        cause.code().is_some_and(|code| code == "42P01") || cause.message().starts_with("no such table")
    }
}

impl From<sqlx::Error> for StoreError {
    /// What another try could mend is [`StoreError::Unavailable`]; what is wrong with the statement or its rows is not.
    fn from(cause: sqlx::Error) -> Self {
        // PostgreSQL undid one of several transactions that waited for each other.
        if cause.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "40P01") {
            return Self::Unavailable(
                "it was changing the same rows for somebody else; nothing was done, try again".into(),
            );
        }
        let ours = match &cause {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                // SQLSTATE classes: data, constraint, syntax or unknown name, not supported. SQLite's generic error is 1.
                ["22", "23", "42", "0A"].iter().any(|class| code.len() == 5 && code.starts_with(class))
                    || code == "1"
                    || !matches!(database.kind(), sqlx::error::ErrorKind::Other)
            }
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::RowNotFound => true,
            _ => false,
        };
        if ours { Self::Statement(cause) } else { Self::Unavailable(cause.to_string()) }
    }
}

impl From<StoreError> for Error {
    /// Fail closed: a database that is gone is 503, a statement that failed is 500.
    fn from(cause: StoreError) -> Self {
        match cause {
            StoreError::Unavailable(_) | StoreError::Unknown(_) => {
                Self::unavailable("The database is not available; try again.", 2).because(cause)
            }
            StoreError::Statement(_) | StoreError::Unfit(_) => Self::internal(cause),
            StoreError::Refused(error) => error,
        }
    }
}
