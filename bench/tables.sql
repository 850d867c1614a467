-- The hand-written tables of the benchmark, in the database that Emmett has too.

-- What an application without a library has: the constraint finds conflicts, the writer counts versions.
CREATE TABLE classic (
    stream text NOT NULL,
    version bigint NOT NULL,
    event_type text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    UNIQUE (stream, version)
);
CREATE INDEX ON classic (recorded_at);

-- What COPY fills: the two indexes that our log has, over numbers too; no heads, ids, keys or digests.
CREATE TABLE copied (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream bigint NOT NULL,
    version bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    event_type text NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    UNIQUE (stream, version)
);

CREATE TABLE counter (id integer PRIMARY KEY, n bigint NOT NULL);
INSERT INTO counter VALUES (1, 0);

GRANT ALL ON ALL TABLES IN SCHEMA public TO peer;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO peer;
