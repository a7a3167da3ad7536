-- One text for both engines (store/migrate.rs): BYTEA becomes BLOB on SQLite, TEXT is COLLATE "C" on PostgreSQL, which has
-- nothing but rows without rowid. Times are microseconds since the epoch, UTC.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- The change feed: the row lock on change_head makes the order of seq the order of commits.
CREATE TABLE change_head (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    seq BIGINT NOT NULL
);
INSERT INTO change_head (one, seq) VALUES (1, 0);

CREATE TABLE changes (
    seq  BIGINT NOT NULL,
    kind TEXT NOT NULL,
    id   TEXT NOT NULL,
    at   BIGINT NOT NULL,
    PRIMARY KEY (seq, kind, id)
);

CREATE TABLE nodes (
    id          BYTEA PRIMARY KEY,
    lease_until BIGINT NOT NULL,
    applied_seq BIGINT NOT NULL,
    started_at  BIGINT NOT NULL,
    master_keys TEXT NOT NULL
);

-- The times of a key's life are planned when it is made, and become what they were as it goes on. What is sealed is
-- dropped when the key signs no more.
CREATE TABLE signing_keys (
    kid          TEXT PRIMARY KEY,
    alg          TEXT NOT NULL,
    alg_name     TEXT NOT NULL,
    state        TEXT NOT NULL,
    public_jwk   TEXT NOT NULL,
    sealed       BYTEA,
    created_at   BIGINT NOT NULL,
    published_at BIGINT NOT NULL,
    activate_at  BIGINT NOT NULL,
    retire_at    BIGINT NOT NULL,
    remove_at    BIGINT NOT NULL
);
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys (alg) WHERE state = 'active';
CREATE UNIQUE INDEX signing_keys_one_standby ON signing_keys (alg) WHERE state = 'published';

CREATE TABLE resources (
    identifier TEXT PRIMARY KEY,
    settings   TEXT NOT NULL,
    managed_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- A scope belongs to one resource.
CREATE TABLE scopes (
    name        TEXT PRIMARY KEY,
    resource    TEXT NOT NULL REFERENCES resources (identifier) ON DELETE CASCADE,
    description TEXT NOT NULL
);
CREATE INDEX scopes_of_resource ON scopes (resource);

CREATE TABLE clients (
    client_id  TEXT PRIMARY KEY,
    metadata   TEXT NOT NULL,
    disabled   BOOLEAN NOT NULL,
    managed_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE credentials (
    id           BYTEA PRIMARY KEY,
    client_id    TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    kind         TEXT NOT NULL,
    label        TEXT NOT NULL,
    value        TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    UNIQUE (client_id, label)
);

-- Browser origins (CORS) that clients registered; a preflight does not say which client asks.
CREATE TABLE client_origins (
    origin    TEXT NOT NULL,
    client_id TEXT NOT NULL REFERENCES clients (client_id) ON DELETE CASCADE,
    PRIMARY KEY (origin, client_id)
);
CREATE INDEX client_origins_of_client ON client_origins (client_id);

CREATE TABLE revocations (
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    not_before BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX revocations_expiry ON revocations (expires_at);

-- Everything opaque and short-lived. Kinds never mix: an id of one kind is nothing to another.
CREATE TABLE artifacts (
    kind       TEXT NOT NULL,
    id         BYTEA NOT NULL,
    body       TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- Of what anybody may leave here without signing in: the network that it came from, whose share is bounded.
    source     TEXT,
    PRIMARY KEY (kind, id)
);
CREATE INDEX artifacts_source ON artifacts (source, expires_at) WHERE source IS NOT NULL;
CREATE INDEX artifacts_expiry ON artifacts (expires_at);

CREATE TABLE audit_events (
    id         BYTEA PRIMARY KEY,
    at         BIGINT NOT NULL,
    kind       TEXT NOT NULL,
    actor      TEXT NOT NULL,
    object     TEXT NOT NULL,
    address    TEXT NOT NULL,
    request_id TEXT NOT NULL,
    details    TEXT NOT NULL
);
-- Samples alone are swept by age. Everything else is read in order of id, which begins with the time.
CREATE INDEX audit_samples ON audit_events (at) WHERE kind = 'request.refused';

-- Exact counts of what is too frequent for a row each, per hour. Written each second, for every client that asked: one tree
-- on SQLite, not two.
CREATE TABLE usage_counters (
    hour      BIGINT NOT NULL,
    event     TEXT NOT NULL,
    client_id TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    n         BIGINT NOT NULL,
    PRIMARY KEY (hour, event, client_id, outcome)
) WITHOUT ROWID;
