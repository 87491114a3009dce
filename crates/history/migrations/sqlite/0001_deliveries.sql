-- The delivery history, folded from the log. Ids are the 16 bytes of their UUID, times are microseconds since the Unix
-- epoch, UTC. Enumerations hold the names that the API uses.

-- What was sent: once per message, however many endpoints it goes to.
CREATE TABLE messages (
    id           BLOB NOT NULL PRIMARY KEY,
    project_id   TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    content_type TEXT NOT NULL,
    payload      BLOB NOT NULL
) STRICT;

-- Messages that no endpoint subscribed to.
CREATE TABLE unmatched_messages (
    message_id BLOB    NOT NULL PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    id                 BLOB    NOT NULL PRIMARY KEY,
    message_id         BLOB    NOT NULL,
    project_id         TEXT    NOT NULL,
    endpoint_id        BLOB    NOT NULL,
    event_type         TEXT    NOT NULL,
    requested_sequence INTEGER NOT NULL,
    origin             TEXT    NOT NULL,
    replay_of          BLOB,
    status             TEXT    NOT NULL,
    failure_reason     TEXT,
    attempt_count      INTEGER NOT NULL,
    next_attempt_at    INTEGER,
    created_at         INTEGER NOT NULL,
    completed_at       INTEGER,
    response_status    INTEGER
) STRICT, WITHOUT ROWID;

-- Read backwards: newest first. Rows come in order of time, so each index grows at one place per leading value.
CREATE INDEX deliveries_by_time ON deliveries (created_at, id);
CREATE INDEX deliveries_by_project ON deliveries (project_id, created_at, id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_at, id);
CREATE INDEX deliveries_by_event_type ON deliveries (project_id, event_type, created_at, id);

-- Partial: a delivery that is requested and delivered within one batch, as most are, never enters them.
CREATE INDEX deliveries_pending_by_time ON deliveries (created_at, id) WHERE status = 'pending';
CREATE INDEX deliveries_pending_by_project ON deliveries (project_id, created_at, id) WHERE status = 'pending';
CREATE INDEX deliveries_pending_by_endpoint ON deliveries (endpoint_id, created_at, id) WHERE status = 'pending';
CREATE INDEX deliveries_failed_by_time ON deliveries (created_at, id) WHERE status = 'failed';
CREATE INDEX deliveries_failed_by_project ON deliveries (project_id, created_at, id) WHERE status = 'failed';
CREATE INDEX deliveries_failed_by_endpoint ON deliveries (endpoint_id, created_at, id) WHERE status = 'failed';

CREATE TABLE attempts (
    delivery_id     BLOB    NOT NULL,
    number          INTEGER NOT NULL,
    started_at      INTEGER NOT NULL,
    duration_us     INTEGER NOT NULL,
    response_status INTEGER,
    error_class     TEXT,
    next_attempt_at INTEGER,
    -- JSON: what is only ever read together with its attempt.
    detail          TEXT    NOT NULL,
    response_body   BLOB,
    PRIMARY KEY (delivery_id, number)
) STRICT;

-- One row: how far in the log the rows are. Written in the same transaction as they are.
CREATE TABLE projection_checkpoint (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    sequence   INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

INSERT INTO projection_checkpoint (id, sequence, updated_at) VALUES (1, 0, 0);
