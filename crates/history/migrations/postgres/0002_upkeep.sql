-- Which retries are overdue. Partial: only what waits for its next attempt is in it.
CREATE INDEX deliveries_pending_by_due ON deliveries (next_attempt_at, id)
    WHERE status = 'pending' AND next_attempt_at IS NOT NULL;

-- Endpoints whose last attempt failed, and since when none has succeeded. Begins with what is folded from now on; a
-- rebuild fills in what came before.
CREATE TABLE endpoint_failures (
    endpoint_id     uuid PRIMARY KEY,
    project_id      text COLLATE "C" NOT NULL,
    failing_since   bigint NOT NULL,
    last_failure_at bigint NOT NULL,
    failures        bigint NOT NULL
);

CREATE INDEX endpoint_failures_by_time ON endpoint_failures (failing_since, endpoint_id);
