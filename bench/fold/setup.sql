-- What fold.sh measures: the same streams in three categories, folded in three ways, and what they are compared with.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION event_store;
SELECT es_create_store();
CREATE SCHEMA bench;

-- ---------------------------------------------------------------- the fold, three times

SELECT es_register_aggregate('rules', snapshot_every => 1000000, rules => '{
    "Opened":    {"set": {"owner": "owner"}},
    "Deposited": {"add": {"balance": "amount"}, "count": "deposits"},
    "Withdrawn": {"subtract": {"balance": "amount"}, "count": "withdrawals"}}');

SELECT es_register_aggregate('sql', snapshot_every => 1000000, fold => $$
    CASE event_type
        WHEN 'Deposited' THEN state || jsonb_build_object('balance', coalesce((state->'balance')::numeric, 0) + (data->'amount')::numeric,
                                                          'deposits', coalesce((state->'deposits')::int, 0) + 1)
        WHEN 'Withdrawn' THEN state || jsonb_build_object('balance', coalesce((state->'balance')::numeric, 0) - (data->'amount')::numeric,
                                                          'withdrawals', coalesce((state->'withdrawals')::int, 0) + 1)
        WHEN 'Opened' THEN state || jsonb_build_object('owner', data->'owner')
        ELSE state
    END $$);

CREATE FUNCTION bench.account_apply(state jsonb, event_type text, data jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    CASE event_type
        WHEN 'Deposited' THEN
            RETURN state || jsonb_build_object('balance', coalesce((state->'balance')::numeric, 0) + (data->'amount')::numeric,
                                               'deposits', coalesce((state->'deposits')::int, 0) + 1);
        WHEN 'Withdrawn' THEN
            RETURN state || jsonb_build_object('balance', coalesce((state->'balance')::numeric, 0) - (data->'amount')::numeric,
                                               'withdrawals', coalesce((state->'withdrawals')::int, 0) + 1);
        WHEN 'Opened' THEN
            RETURN state || jsonb_build_object('owner', data->'owner');
        ELSE
            RETURN state;
    END CASE;
END $$;
SELECT es_register_aggregate('plpgsql', snapshot_every => 1000000, fold => 'bench.account_apply(state, event_type, data)');

-- ---------------------------------------------------------------- what it is compared with

-- The loop that a programmer would write for speed: the state in variables.
CREATE FUNCTION bench.loop_variables(of_stream text) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
DECLARE
    e record;
    balance numeric := 0;
    deposits int := 0;
    withdrawals int := 0;
    owner jsonb;
BEGIN
    FOR e IN SELECT t.name, l.data FROM event_store.log l JOIN event_store.event_types t ON t.id = l.event_type
        WHERE l.stream = (SELECT id FROM event_store.heads WHERE name = of_stream) ORDER BY l.version
    LOOP
        IF e.name = 'Deposited' THEN
            balance := balance + (e.data->'amount')::numeric;
            deposits := deposits + 1;
        ELSIF e.name = 'Withdrawn' THEN
            balance := balance - (e.data->'amount')::numeric;
            withdrawals := withdrawals + 1;
        ELSIF e.name = 'Opened' THEN
            owner := e.data->'owner';
        END IF;
    END LOOP;
    RETURN jsonb_build_object('owner', owner, 'balance', balance, 'deposits', deposits, 'withdrawals', withdrawals);
END $$;

-- The same with a function of state and event.
CREATE FUNCTION bench.loop_jsonb(of_stream text) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$
DECLARE
    e record;
    state jsonb := '{}';
BEGIN
    FOR e IN SELECT t.name, l.data FROM event_store.log l JOIN event_store.event_types t ON t.id = l.event_type
        WHERE l.stream = (SELECT id FROM event_store.heads WHERE name = of_stream) ORDER BY l.version
    LOOP
        state := bench.account_apply(state, e.name, e.data);
    END LOOP;
    RETURN state;
END $$;

CREATE AGGREGATE bench.account(text, jsonb) (sfunc = bench.account_apply, stype = jsonb, initcond = '{}');

-- ---------------------------------------------------------------- streams

SELECT es_append_batch(array_agg(c || '-' || n ORDER BY i), array_agg(CASE WHEN i = 1 THEN 'Opened' WHEN i % 3 = 0 THEN 'Withdrawn' ELSE 'Deposited' END ORDER BY i),
        array_agg(CASE WHEN i = 1 THEN '{"owner": "Ann Example"}'
            ELSE jsonb_build_object('amount', ((i * 7919) % 100000) / 100.0, 'reference', md5(i::text), 'channel', 'branch', 'currency', 'EUR') END ORDER BY i))
    FROM unnest('{rules,sql,plpgsql}'::text[]) c, unnest('{100,1000,10000,100000}'::int[]) n, generate_series(1, n) i GROUP BY c, n;

-- Thousands of streams with a snapshot: of their last event, or of 50 events before.
SELECT es_register_aggregate(c, fold => fold, rules => rules)
    FROM (VALUES ('snapshot', 'sql'), ('tail_sql', 'sql'), ('tail_rules', 'rules')) c(c, same) JOIN event_store.aggregates ON category = same;
SELECT count(*) FROM generate_series(0, 999) s, unnest('{snapshot,tail_sql,tail_rules}'::text[]) c, LATERAL es_append(c || '-' || s, 0,
    (SELECT jsonb_agg(jsonb_build_object('type', CASE WHEN i = 1 THEN 'Opened' ELSE 'Deposited' END, 'data', jsonb_build_object('owner', 'Ann Example', 'amount', i + 0.25)))
        FROM generate_series(1, 20) i)) a;
SELECT count(es_snapshot(stream)) FROM event_store.streams WHERE category IN ('snapshot', 'tail_sql', 'tail_rules');
SELECT count(*) FROM generate_series(0, 999) s, unnest('{tail_sql,tail_rules}'::text[]) c, LATERAL es_append(c || '-' || s, 20,
    (SELECT jsonb_agg(jsonb_build_object('type', 'Deposited', 'data', jsonb_build_object('amount', i + 0.25))) FROM generate_series(1, 50) i)) a;

-- What a program would keep that stores states instead of events.
CREATE TABLE bench.states (stream text PRIMARY KEY, state jsonb NOT NULL, version bigint NOT NULL, position bigint NOT NULL, recorded_at timestamptz NOT NULL);
INSERT INTO bench.states SELECT s.stream, l.* FROM event_store.streams s, es_load(s.stream) l WHERE category = 'snapshot';

VACUUM ANALYZE;
CHECKPOINT;

-- All of them compute the same.
DO $$
DECLARE
    n int;
    expected jsonb;
BEGIN
    FOREACH n IN ARRAY '{100,1000,10000,100000}'::int[] LOOP
        expected := bench.loop_variables('rules-' || n);
        IF (es_load('rules-' || n)).state <> expected OR (es_load('sql-' || n)).state <> expected OR (es_load('plpgsql-' || n)).state <> expected
            OR bench.loop_jsonb('rules-' || n) <> expected
            OR (SELECT bench.account(t.name, l.data ORDER BY l.version) FROM event_store.log l JOIN event_store.event_types t ON t.id = l.event_type
                WHERE l.stream = (SELECT id FROM event_store.heads WHERE name = 'rules-' || n)) <> expected
        THEN
            RAISE 'the states of % events differ', n;
        END IF;
    END LOOP;
END $$;
