-- People: who they are, their sessions, what they agreed to, and the grants that come of it.

CREATE TABLE users (
    sub                 TEXT PRIMARY KEY,
    username            TEXT NOT NULL,
    -- What is compared at sign-in: normalised and lower-cased (users/mod.rs).
    username_key        TEXT NOT NULL UNIQUE,
    -- Standard and own claims, and groups, as JSON.
    profile             TEXT NOT NULL,
    -- Argon2id, as a PHC string.
    password            TEXT,
    password_changed_at BIGINT,
    -- SHA-256 of the PHC string that the password was imported as: it may be hashed anew since, and is still that one.
    password_import     TEXT,
    disabled            BOOLEAN NOT NULL,
    managed_by          TEXT NOT NULL,
    created_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL
);

-- One browser; the id is the SHA-256 of its cookie.
CREATE TABLE sessions (
    id         BYTEA PRIMARY KEY,
    data       TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- While nobody is signed in: the network that it came from, whose share is bounded.
    source     TEXT
);
CREATE INDEX sessions_expiry ON sessions (expires_at);
CREATE INDEX sessions_source ON sessions (source, expires_at) WHERE source IS NOT NULL;

-- One person signed in at one browser: what the ID token's sid names. `browser` is in the session's data and stays
-- when the session's id changes.
CREATE TABLE sign_ins (
    sid          TEXT PRIMARY KEY,
    browser      TEXT NOT NULL,
    sub          TEXT NOT NULL REFERENCES users (sub) ON DELETE CASCADE,
    auth_time    BIGINT NOT NULL,
    acr          TEXT,
    amr          TEXT NOT NULL,
    -- What the browser is called, for the person to tell several apart: 'Firefox, Windows'.
    agent        TEXT,
    last_used_at BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    UNIQUE (browser, sub)
);
CREATE INDEX sign_ins_of_user ON sign_ins (sub);
CREATE INDEX sign_ins_expiry ON sign_ins (expires_at);
CREATE INDEX sign_ins_use ON sign_ins (last_used_at);

-- One row is one authorization; it carries the state of its code and of its refresh token.
CREATE TABLE grants (
    id                 BYTEA PRIMARY KEY,
    client_id          TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    sub                TEXT NOT NULL REFERENCES users (sub) ON DELETE CASCADE,
    sid                TEXT NOT NULL,
    scope              TEXT NOT NULL,
    -- Identifiers, as a JSON list.
    resources          TEXT NOT NULL,
    -- auth_time, acr, amr, nonce and the claims request, as JSON.
    facts              TEXT NOT NULL,
    code_hash          BYTEA NOT NULL UNIQUE,
    code_expires_at    BIGINT NOT NULL,
    code_used_at       BIGINT,
    redirect_uri       TEXT NOT NULL,
    challenge          TEXT,
    -- 0: there is no refresh token.
    generation         BIGINT NOT NULL,
    rotated_at         BIGINT,
    refresh_expires_at BIGINT,
    revoked_at         BIGINT,
    created_at         BIGINT NOT NULL,
    -- After this nothing of the grant is good for anything.
    expires_at         BIGINT NOT NULL
);
CREATE INDEX grants_expiry ON grants (expires_at);
CREATE INDEX grants_of_user ON grants (sub, client_id);
CREATE INDEX grants_of_session ON grants (sid);

-- What a person agreed to: one row per resource. `identity` is a hash of what the client was then.
CREATE TABLE consents (
    sub        TEXT NOT NULL REFERENCES users (sub) ON DELETE CASCADE,
    client_id  TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    resource   TEXT NOT NULL,
    scope      TEXT NOT NULL,
    -- Names of claims asked for by name, as a JSON list.
    claims     TEXT NOT NULL,
    identity   TEXT NOT NULL,
    granted_at BIGINT NOT NULL,
    PRIMARY KEY (sub, client_id, resource)
);

-- Attempts that count against an account or an address until a moment.
CREATE TABLE attempts (
    -- Of an account: its sub, so that all its rows are found by it.
    id         TEXT NOT NULL,
    kind       TEXT NOT NULL,
    -- Which of several of that kind; mostly ''.
    part       TEXT NOT NULL,
    n          BIGINT NOT NULL,
    -- No other attempt counts before.
    free_at    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (id, kind, part)
);
CREATE INDEX attempts_expiry ON attempts (expires_at);

-- Keys of message authentication codes, sealed under the master key; the newest makes, all check.
CREATE TABLE mac_keys (
    id         BYTEA PRIMARY KEY,
    sealed     BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

-- Claims beyond the standard ones: where each comes from, for which scope, and for which client ('' is all).
CREATE TABLE claim_mappers (
    claim      TEXT NOT NULL,
    source     TEXT NOT NULL,
    scope      TEXT NOT NULL,
    client_id  TEXT NOT NULL,
    managed_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (claim, scope, client_id)
);
