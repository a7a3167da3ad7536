//! Rows of grants: one is one authorization. It carries the state of its code and of its refresh token, so that
//! redeeming and rotating are one conditional update each.

use sqlx::FromRow;

use super::conn::{MANY, execute, execute_rows, fetch, fetch_rows, filled, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;
use crate::secret::Id;

/// Whose person is not switched off.
macro_rules! of_somebody {
    () => {
        "EXISTS (SELECT 1 FROM users WHERE users.sub = grants.sub AND NOT users.disabled)"
    };
}

/// The columns of a [`GrantRow`].
macro_rules! columns {
    () => {
        "id, client_id, sub, sid, scope, resources, facts, code_hash, code_expires_at, redirect_uri, challenge, \
         generation, rotated_at, created_at, expires_at"
    };
}

/// Those rows of many in which the second column is as it is asked for with the first.
macro_rules! pairs {
    ($key:literal, $column:literal, $type:literal, $first:literal $its:literal $($more:literal $theirs:literal)*) => {
        concat!(
            $key, " IN (", $first, $(", ", $more,)* ") AND ", $column, " = CASE ", $key,
            " WHEN ", $first, " THEN CAST(", $its, " AS ", $type, ")",
            $(" WHEN ", $more, " THEN CAST(", $theirs, " AS ", $type, ")",)* " END"
        )
    };
}

/// $1: now; $2 to $4: [`Ends`].
macro_rules! redeem {
    ($which:expr) => {
        concat!(
            "UPDATE grants SET code_used_at = $1, \
             expires_at = CASE WHEN generation > 0 THEN CAST($3 AS BIGINT) ELSE CAST($2 AS BIGINT) END, \
             refresh_expires_at = CASE WHEN generation > 0 THEN CAST($4 AS BIGINT) END \
             WHERE ",
            $which,
            " AND code_used_at IS NULL AND revoked_at IS NULL AND ",
            of_somebody!(),
            " RETURNING ",
            columns!()
        )
    };
}

/// $1: now.
macro_rules! live {
    ($which:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM grants WHERE ",
            $which,
            " AND generation > 0 AND code_used_at IS NOT NULL AND revoked_at IS NULL \
             AND expires_at > $1 AND refresh_expires_at > $1 AND ",
            of_somebody!()
        )
    };
}

/// $1: now; $2: when they end unused.
macro_rules! rotate {
    ($which:expr) => {
        concat!(
            "UPDATE grants SET generation = generation + 1, rotated_at = $1, \
             expires_at = CASE WHEN refresh_expires_at < $2 THEN refresh_expires_at ELSE $2 END \
             WHERE ",
            $which,
            " AND code_used_at IS NOT NULL AND revoked_at IS NULL \
             AND expires_at > $1 AND refresh_expires_at > $1 AND ",
            of_somebody!()
        )
    };
}

queries! {
    // The person must be signed in still. The row's lock makes who ends the sign-in come before or after, not between.
    SIGNED_IN = "UPDATE sign_ins SET last_used_at = $2 WHERE sid = $1 AND expires_at > $2";
    ADD = "INSERT INTO grants (id, client_id, sub, sid, scope, resources, facts, code_hash, code_expires_at, redirect_uri, \
           challenge, generation, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $9)";
    REDEEM_ONE = redeem!("code_hash = $5 AND client_id = $6");
    REDEEM_MANY = redeem!(pairs!(
        "code_hash", "client_id", "TEXT",
        "$5" "$6" "$7" "$8" "$9" "$10" "$11" "$12"
        "$13" "$14" "$15" "$16" "$17" "$18" "$19" "$20"
        "$21" "$22" "$23" "$24" "$25" "$26" "$27" "$28"
        "$29" "$30" "$31" "$32" "$33" "$34" "$35" "$36"
        "$37" "$38" "$39" "$40" "$41" "$42" "$43" "$44"
        "$45" "$46" "$47" "$48" "$49" "$50" "$51" "$52"
        "$53" "$54" "$55" "$56" "$57" "$58" "$59" "$60"
        "$61" "$62" "$63" "$64" "$65" "$66" "$67" "$68"
    ));
    BURN = "UPDATE grants SET expires_at = $2 WHERE id = $1";
    USED = "SELECT id FROM grants WHERE code_hash = $1 AND client_id = $2 AND code_used_at IS NOT NULL";
    LIVE_ONE = live!("id = $2");
    LIVE_MANY = live!(
        "id IN ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, \
         $24, $25, $26, $27, $28, $29, $30, $31, $32, $33)"
    );
    ROTATE_ONE = rotate!("id = $3 AND generation = $4");
    ROTATE_MANY = rotate!(pairs!(
        "id", "generation", "BIGINT",
        "$3" "$4" "$5" "$6" "$7" "$8" "$9" "$10"
        "$11" "$12" "$13" "$14" "$15" "$16" "$17" "$18"
        "$19" "$20" "$21" "$22" "$23" "$24" "$25" "$26"
        "$27" "$28" "$29" "$30" "$31" "$32" "$33" "$34"
        "$35" "$36" "$37" "$38" "$39" "$40" "$41" "$42"
        "$43" "$44" "$45" "$46" "$47" "$48" "$49" "$50"
        "$51" "$52" "$53" "$54" "$55" "$56" "$57" "$58"
        "$59" "$60" "$61" "$62" "$63" "$64" "$65" "$66"
    ));
    FACTS = "SELECT facts FROM grants WHERE id = $1";
    REVOKE = "UPDATE grants SET revoked_at = $2, expires_at = $2 WHERE id = $1 AND revoked_at IS NULL";
    REVOKE_OF_CLIENT = "UPDATE grants SET revoked_at = $2, expires_at = $2 WHERE client_id = $1 AND revoked_at IS NULL";
    OF_SESSION = "SELECT id, scope, code_used_at FROM grants WHERE sid = $1 AND revoked_at IS NULL ORDER BY id";
    OF_USER = "SELECT id FROM grants WHERE sub = $1 AND revoked_at IS NULL ORDER BY id";
    OF_USER_AT = "SELECT id FROM grants WHERE sub = $1 AND client_id = $2 AND revoked_at IS NULL ORDER BY id";
    STANDING = "SELECT client_id, scope, resources, created_at FROM grants WHERE sub = $1 AND revoked_at IS NULL \
                AND code_used_at IS NOT NULL AND expires_at > $2 ORDER BY client_id, created_at";
    BEYOND = "SELECT id FROM grants WHERE sub = $1 AND client_id = $2 AND revoked_at IS NULL AND expires_at > $3 \
              AND (code_used_at IS NOT NULL) = $4 ORDER BY created_at DESC, id LIMIT 100 OFFSET $5";
    SWEEP = "DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
}

/// A grant that is made.
pub struct NewGrant {
    /// Its id.
    pub id: Id,
    /// To whom.
    pub client_id: String,
    /// Who granted it: a person's subject.
    pub sub: String,
    /// The sign-in that it came of.
    pub sid: String,
    /// What it covers.
    pub scope: String,
    /// Where: identifiers, as a JSON list.
    pub resources: String,
    /// `Facts`, as JSON.
    pub facts: String,
    /// SHA-256 of the code.
    pub code_hash: [u8; 32],
    /// When the code ends, and the grant with it if it was not redeemed.
    pub code_expires_at: Micros,
    /// Where the code goes.
    pub redirect_uri: String,
    /// RFC 7636, by S256.
    pub challenge: Option<String>,
    /// 1 when redeeming it brings a refresh token, else 0.
    pub generation: i64,
}

/// A grant as it is redeemed and rotated.
#[derive(Clone, Debug, FromRow)]
pub struct GrantRow {
    /// Its id: 16 bytes.
    pub id: Vec<u8>,
    /// To whom.
    pub client_id: String,
    /// Who granted it.
    pub sub: String,
    /// The sign-in that it came of.
    pub sid: String,
    /// What it covers.
    pub scope: String,
    /// Where: identifiers, as a JSON list.
    pub resources: String,
    /// `Facts`, as JSON.
    pub facts: String,
    /// SHA-256 of the code.
    pub code_hash: Vec<u8>,
    /// When the code ends.
    pub code_expires_at: Micros,
    /// Where the code went.
    pub redirect_uri: String,
    /// RFC 7636, by S256.
    pub challenge: Option<String>,
    /// Of the refresh token; 0: there is none.
    pub generation: i64,
    /// When the refresh token was last exchanged for the next.
    pub rotated_at: Option<Micros>,
    /// When it was made.
    pub created_at: Micros,
    /// When it ends, if nothing is done with it meanwhile.
    pub expires_at: Micros,
}

/// Until when a redeemed grant is good for something.
#[derive(Clone, Copy)]
pub struct Ends {
    /// Without a refresh token: the end of the longest access token.
    pub plain: Micros,
    /// With a refresh token that is never used.
    pub idle: Micros,
    /// With a refresh token, however often it is used.
    pub absolute: Micros,
}

/// Adds a grant whose code nobody has seen; false, and nothing is added, when the sign-in has ended.
pub async fn add(tx: &mut Tx, grant: &NewGrant) -> Result<bool, StoreError> {
    let now = tx.now();
    if execute!(tx, SIGNED_IN, &grant.sid, now)? == 0 {
        return Ok(false);
    }
    let NewGrant { id, client_id, sub, sid, scope, resources, facts, code_hash, code_expires_at, .. } = grant;
    let NewGrant { redirect_uri, challenge, generation, .. } = grant;
    execute!(
        tx,
        ADD,
        &id[..],
        client_id,
        sub,
        sid,
        scope,
        resources,
        facts,
        &code_hash[..],
        *code_expires_at,
        redirect_uri,
        challenge.as_deref(),
        *generation,
        now
    )?;
    Ok(true)
}

/// Uses codes up, each (its SHA-256, the client's id) once, for its own client only, and only while the grant stands and
/// the person is not switched off. What they stand for, in any order; whether they were still in time, and presented as
/// they must be, the caller compares after.
pub async fn redeem(
    tx: &mut Tx,
    codes: &[(&[u8; 32], &str)],
    Ends { plain, idle, absolute }: Ends,
) -> Result<Vec<GrantRow>, StoreError> {
    let (now, idle, mut redeemed) = (tx.now(), idle.min(absolute), Vec::with_capacity(codes.len()));
    for codes in codes.chunks(MANY) {
        let rows: Vec<GrantRow> = match codes {
            [(code, client)] => fetch!(all, tx, REDEEM_ONE, now, plain, idle, absolute, &code[..], client)?,
            codes => fetch_rows!(tx, REDEEM_MANY, [now, plain, idle, absolute], filled(codes), |(code, client)| [
                &code[..],
                *client
            ])?,
        };
        redeemed.extend(rows);
    }
    Ok(redeemed)
}

/// Nothing comes of a code that was used up just now: its grant is good for nothing from here on.
pub async fn burn(tx: &mut Tx, id: &Id) -> Result<(), StoreError> {
    let now = tx.now();
    execute!(tx, BURN, &id[..], now).map(drop)
}

/// The grant of a code that this client has used before.
pub async fn used(tx: &mut Tx, code_hash: &[u8; 32], client_id: &str) -> Result<Option<Id>, StoreError> {
    let row: Option<(Vec<u8>,)> = fetch!(optional, tx, USED, &code_hash[..], client_id)?;
    Ok(row.and_then(|(id,)| Id::try_from(id).ok()))
}

/// Those grants of which a refresh token may be good for something, in any order.
pub async fn live(conn: &mut Conn, ids: &[Id], now: Micros) -> Result<Vec<GrantRow>, StoreError> {
    let mut live = Vec::with_capacity(ids.len());
    for ids in ids.chunks(MANY) {
        let rows: Vec<GrantRow> = match ids {
            [id] => fetch!(all, conn, LIVE_ONE, now, &id[..])?,
            ids => fetch_rows!(conn, LIVE_MANY, [now], filled(ids), |id| [&id[..]])?,
        };
        live.extend(rows);
    }
    Ok(live)
}

/// The client's grant, while a refresh token of it may be good for something.
pub async fn live_of(conn: &mut Conn, id: Id, client_id: &str, now: Micros) -> Result<Option<GrantRow>, StoreError> {
    Ok(live(conn, &[id], now).await?.pop().filter(|row| row.client_id == client_id))
}

/// Exchanges the refresh tokens of grants, each (the grant, the token's generation) once, for the next, while the grant
/// stands and the person is not switched off; whose they are the caller has seen in their rows. Unused from here on, they
/// end at `idle`. How many this caller exchanged.
pub async fn rotate(tx: &mut Tx, tokens: &[(Id, i64)], idle: Micros) -> Result<u64, StoreError> {
    let (now, mut rotated) = (tx.now(), 0);
    for tokens in tokens.chunks(MANY) {
        rotated += match tokens {
            [(id, generation)] => execute!(tx, ROTATE_ONE, now, idle, &id[..], *generation)?,
            tokens => {
                execute_rows!(tx, ROTATE_MANY, [now, idle], filled(tokens), |(id, generation)| [&id[..], *generation])?
            }
        };
    }
    Ok(rotated)
}

/// The facts of a grant, as JSON.
pub async fn facts(conn: &mut Conn, id: Id) -> Result<Option<String>, StoreError> {
    let found: Option<(String,)> = fetch!(optional, conn, FACTS, &id[..])?;
    Ok(found.map(|(facts,)| facts))
}

/// Takes a grant back, with its code and its refresh token; the row is swept soon. Whether that was new.
pub async fn revoke(tx: &mut Tx, id: &Id) -> Result<bool, StoreError> {
    let now = tx.now();
    Ok(execute!(tx, REVOKE, &id[..], now)? > 0)
}

/// Takes all grants to a client back. Their access tokens are another matter: of many grants, one row says it for all
/// (`revocations::Kind::Client`).
pub async fn revoke_of_client(tx: &mut Tx, client_id: &str) -> Result<(), StoreError> {
    let now = tx.now();
    execute!(tx, REVOKE_OF_CLIENT, client_id, now).map(drop)
}

/// The grants that came of a sign-in and stand: id, scope, and whether the code was used.
pub async fn of_session(tx: &mut Tx, sid: &str) -> Result<Vec<(Id, String, bool)>, StoreError> {
    let rows: Vec<(Vec<u8>, String, Option<Micros>)> = fetch!(all, tx, OF_SESSION, sid)?;
    let read =
        |(id, scope, used): (Vec<u8>, String, Option<Micros>)| Some((Id::try_from(id).ok()?, scope, used.is_some()));
    Ok(rows.into_iter().filter_map(read).collect())
}

/// The grants of a person that stand.
pub async fn of_user(tx: &mut Tx, sub: &str) -> Result<Vec<Id>, StoreError> {
    let rows: Vec<(Vec<u8>,)> = fetch!(all, tx, OF_USER, sub)?;
    Ok(rows.into_iter().filter_map(|(id,)| Id::try_from(id).ok()).collect())
}

/// The grants of a person to a client that stand.
pub async fn of_user_at(tx: &mut Tx, sub: &str, client_id: &str) -> Result<Vec<Id>, StoreError> {
    let rows: Vec<(Vec<u8>,)> = fetch!(all, tx, OF_USER_AT, sub, client_id)?;
    Ok(rows.into_iter().filter_map(|(id,)| Id::try_from(id).ok()).collect())
}

/// The grants of a person that clients have something of: to whom, the scope, the resources as a JSON list, since when.
pub async fn standing(
    conn: &mut Conn,
    sub: &str,
    now: Micros,
) -> Result<Vec<(String, String, String, Micros)>, StoreError> {
    fetch!(all, conn, STANDING, sub, now)
}

/// The grants of a person to a client that stand, of those whose code was redeemed or of those whose code waits, but for
/// the `keep` newest: at most 100.
pub async fn beyond(
    tx: &mut Tx,
    (sub, client_id): (&str, &str),
    redeemed: bool,
    keep: i64,
) -> Result<Vec<Id>, StoreError> {
    let now = tx.now();
    let rows: Vec<(Vec<u8>,)> = fetch!(all, tx, BEYOND, sub, client_id, now, redeemed, keep)?;
    Ok(rows.into_iter().filter_map(|(id,)| Id::try_from(id).ok()).collect())
}

/// Forgets up to `limit` grants that are good for nothing any more.
pub async fn sweep(tx: &mut Tx, now: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, now, limit)
}
