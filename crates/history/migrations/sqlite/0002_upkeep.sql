-- Which retries are overdue. Partial: only what waits for its next attempt is in it.
CREATE INDEX deliveries_pending_by_due ON deliveries (next_attempt_at, id)
    WHERE status = 'pending' AND next_attempt_at IS NOT NULL;

-- Endpoints whose last attempt failed, and since when none has succeeded. Begins with what is folded from now on; a
-- rebuild fills in what came before.
CREATE TABLE endpoint_failures (
    endpoint_id     BLOB    NOT NULL PRIMARY KEY,
    project_id      TEXT    NOT NULL,
    failing_since   INTEGER NOT NULL,
    last_failure_at INTEGER NOT NULL,
    failures        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX endpoint_failures_by_time ON endpoint_failures (failing_since, endpoint_id);
