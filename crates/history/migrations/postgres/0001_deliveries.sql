-- The delivery history, folded from the log. Times are microseconds since the Unix epoch, UTC. Enumerations hold the
-- names that the API uses. Collation "C": texts are compared for equality only, and by bytes that is cheapest.

-- What was sent: once per message, however many endpoints it goes to.
CREATE TABLE messages (
    id           uuid PRIMARY KEY,
    project_id   text COLLATE "C" NOT NULL,
    event_type   text COLLATE "C" NOT NULL,
    content_type text NOT NULL,
    payload      bytea NOT NULL
);

-- Messages that no endpoint subscribed to.
CREATE TABLE unmatched_messages (
    message_id uuid PRIMARY KEY,
    created_at bigint NOT NULL
);

CREATE TABLE deliveries (
    id                 uuid PRIMARY KEY,
    message_id         uuid NOT NULL,
    project_id         text COLLATE "C" NOT NULL,
    endpoint_id        uuid NOT NULL,
    event_type         text COLLATE "C" NOT NULL,
    requested_sequence bigint NOT NULL,
    origin             text COLLATE "C" NOT NULL,
    replay_of          uuid,
    status             text COLLATE "C" NOT NULL,
    failure_reason     text COLLATE "C",
    attempt_count      bigint NOT NULL,
    next_attempt_at    bigint,
    created_at         bigint NOT NULL,
    completed_at       bigint,
    response_status    integer
);

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
    delivery_id     uuid NOT NULL,
    number          bigint NOT NULL,
    started_at      bigint NOT NULL,
    duration_us     bigint NOT NULL,
    response_status integer,
    error_class     text COLLATE "C",
    next_attempt_at bigint,
    -- JSON: what is only ever read together with its attempt. Not jsonb, which cannot hold U+0000.
    detail          text NOT NULL,
    response_body   bytea,
    PRIMARY KEY (delivery_id, number)
);

-- Compressing and moving values out of the row starts at 2 kB by default and costs more than it saves for the usual few
-- kilobytes; only rows that do not fit a page are treated so.
ALTER TABLE messages SET (toast_tuple_target = 8160);
ALTER TABLE attempts SET (toast_tuple_target = 8160);

-- One row: how far in the log the rows are. Written in the same transaction as they are.
CREATE TABLE projection_checkpoint (
    id         integer PRIMARY KEY CHECK (id = 1),
    sequence   bigint NOT NULL,
    updated_at bigint NOT NULL
);

INSERT INTO projection_checkpoint (id, sequence, updated_at) VALUES (1, 0, 0);
