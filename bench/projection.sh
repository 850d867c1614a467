#!/usr/bin/env bash
# Measures projections: their lag behind appends, what the workers cost the appends, how fast one is built anew while
# somebody reads it, and how fast a new one catches up. About 5 minutes; writes results/projection.md.
#
# ROUNDS, SLICE (seconds), RATE (appends a second), and those of test/lib.sh. Needs what make check needs.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${ROUNDS:=7}" "${SLICE:=5}" "${RATE:=2000}" "${EVENTS:=541909}"
RETAIL=$ES_TOP/../shared/data/retail-products.ndjson.gz

sql() { "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres "$@"; }    # a later -d wins

# appends SECONDS [OPTION...]: what 16 clients do in one category of 10,000 streams; prints transactions a second.
appends() {
    local seconds=$1
    shift
    "$ES_BIN/pgbench" -n -M prepared -c 16 -j 2 -T "$seconds" "$@" -f "$BENCH/projection/append.sql" postgres 2>"$ES_TMP/pgbench.err" |
        sed -n 's/^tps = \([0-9.]*\).*/\1/p'
}

# What the background processes have run, in milliseconds of CPU, by the kernel's count.
worker_cpu() {
    local pid total=0 ns
    for pid in $(sql -c "SELECT pid FROM es_workers() WHERE kind <> 'launcher'"); do
        read -r ns _ <"/proc/$pid/schedstat"
        total=$((total + ns / 1000000))
    done
    echo "$total"
}

wait_for() { sql -c "SELECT es_wait_for_projection('$1', es_high_water_mark(), '10 min')" >/dev/null; }

# A pair of slices: without workers, with them. What a slice left to do is done before the next.
measure_cost() {
    local i without with before events
    for ((i = 0; i < ROUNDS; i++)); do
        sql -c 'SELECT es_stop_worker()' >/dev/null
        without=$(appends "$SLICE")
        sql -c 'SELECT es_start_worker()' >/dev/null
        wait_for "$1"
        events=$(sql -c "SELECT count(*) FROM event_store.log")
        before=$(worker_cpu)
        with=$(appends "$SLICE")
        wait_for "$1"
        events=$(($(sql -c "SELECT count(*) FROM event_store.log") - events))
        echo "$1 $without $with $(($(worker_cpu) - before)) $events" >>"$ES_TMP/cost"
    done
}

# The same without sealing, and with what was appended sealed every second.
seal_every() {
    sql -c "ALTER SYSTEM SET event_store.seal_interval = $1" -c 'SELECT pg_reload_conf()' >/dev/null
}

measure_seals() {
    local i without with before events
    for ((i = 0; i < ROUNDS; i++)); do
        seal_every 0
        without=$(appends "$SLICE")
        # Of the slice with seals only its own events are to be sealed in it.
        sql -c 'SELECT es_seal_log()' >/dev/null
        events=$(sql -c "SELECT max(to_position) FROM event_store.seals")
        seal_every 1
        before=$(worker_cpu)
        with=$(appends "$SLICE")
        echo "seals $without $with $(($(worker_cpu) - before)) $(sql -c "SELECT max(to_position) - $events FROM event_store.seals")" >>"$ES_TMP/cost"
    done
    seal_every 60
}

measure_lag() {
    appends $((SLICE * 3)) -R "$RATE" >"$ES_TMP/rate"
    wait_for each
}

# The real lines where they are, else as many of the same shape.
fill_retail() {
    if [[ -e $RETAIL ]]; then
        gzip -dc "$RETAIL" |
            sed -E 's/\\/\\\\/g; s/^\{"stream":"([^"]*)","type":"([^"]*)","occurred_at":"([^"]*)","data":(.*)\}$/\1\t\2\t\4\t\3/' |
            sql -c 'COPY event_store.import (stream, event_type, data, occurred_at) FROM STDIN'
    else
        sql -v events="$EVENTS" -f "$BENCH/projection/synthetic.sql"
    fi
}

# Rebuilds once; a reader looks all the time whether the table is whole.
measure_rebuild() {
    sql -f "$BENCH/projection/rebuild.sql" >>"$ES_TMP/rebuild"
}

rebuild_all() {
    local i
    for ((i = 0; i < ROUNDS; i++)); do
        measure_rebuild
    done
}

catch_up() {
    local i keys
    "$ES_BIN/createdb" catchup
    sql -d catchup -f "$BENCH/projection/catchup.sql" >/dev/null
    for ((i = 0; i < ROUNDS; i++)); do
        for keys in 1000 100000; do
            sql -d catchup -c "TRUNCATE few, many" -c "CALL by_projection($keys, 1000)" -c "TRUNCATE few, many" \
                -c "CALL by_projection($keys, 50000)" -c "TRUNCATE few, many" -c "CALL by_loop($keys)"
        done
    done
}

catchup_rows() {
    sql -d catchup -F ' | ' -c "WITH r AS (SELECT keys, batch, events / seconds AS rate, row_number() OVER (PARTITION BY keys, batch) AS round FROM caught)
        SELECT '| ' || to_char(o.keys, 'FM999,999'), o.batch, percentile_disc(0.5) WITHIN GROUP (ORDER BY o.rate)::int, percentile_disc(0.5) WITHIN GROUP (ORDER BY l.rate)::int,
            format('%s (%s to %s) |', round((percentile_disc(0.5) WITHIN GROUP (ORDER BY o.rate / l.rate))::numeric, 2),
                round(min(o.rate / l.rate)::numeric, 2), round(max(o.rate / l.rate)::numeric, 2))
        FROM r o JOIN r l ON l.keys = o.keys AND l.round = o.round AND l.batch = 0 WHERE o.batch > 0
        GROUP BY o.keys, o.batch ORDER BY o.keys, o.batch"
}

median() { sort -g | awk '{v[NR] = $1} END {m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; printf m < 100 ? "%.3g" : "%.0f", m}'; }

cost_row() {
    local rows=$ES_TMP/cost.$1
    grep "^$1 " "$ES_TMP/cost" >"$rows"
    printf '| %s | %s | %s | %s (%s to %s) | %s |\n' "$2" "$(awk '{printf "%d\n", $2}' "$rows" | median)" "$(awk '{printf "%d\n", $3}' "$rows" | median)" \
        "$(awk '{print $3 / $2}' "$rows" | median)" "$(awk '{printf "%.2f\n", $3 / $2}' "$rows" | sort -g | head -n 1)" \
        "$(awk '{printf "%.2f\n", $3 / $2}' "$rows" | sort -g | tail -n 1)" "$(awk '{print $4 * 1000 / $5}' "$rows" | median)"
}

report() {
    cat <<END
# Projections

event_store $(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'event_store'") ($(measured_commit)), PostgreSQL $(sql -c 'SHOW server_version'); $(date -u +%Y-%m-%d).
$(machine), shared by clients, server and workers; $(uname -sr). Load average
$LOAD_BEFORE before, $(load_average) after. Durable appends (fsync on).

## Lag

$(printf '%.0f' "$(<"$ES_TMP/rate")") appends a second by 16 clients, one event each. From the time in the event's commit record (before it is on disk) to that of the
projection's, for $(sql -c 'SELECT count(*) FROM each') events:

| median | 90 % | 99 % | 99.9 % | events a batch |
|---|---|---|---|---|
| $(sql -F ' | ' -c "SELECT round(p[1], 1) || ' ms', round(p[2], 1) || ' ms', round(p[3], 1) || ' ms', round(p[4], 1) || ' ms', round(n, 1)
    FROM (SELECT percentile_disc(ARRAY[0.5, 0.9, 0.99, 0.999]) WITHIN GROUP (ORDER BY extract(epoch FROM
    pg_xact_commit_timestamp(e.xmin) - pg_xact_commit_timestamp(l.xmin)) * 1000) AS p, avg(e.events) AS n
    FROM each e JOIN event_store.log l USING (position)) q") |

## What workers cost appends

16 clients, as fast as they can, slices of $SLICE s without and with workers in turn, $ROUNDS pairs. The clients leave no CPU
over, so whatever the workers run is taken from them.

| workers | appends/s without | with | ratio (least to greatest) | CPU of the workers, µs an event |
|---|---|---|---|---|
$(cost_row nothing 'a projection that passes everything by')
$(cost_row totals 'a projection: totals of 10,000 streams, upserts')
$(cost_row seals 'seals, every second')

## Rebuild

$(sql -c "SELECT count(*) FROM event_store.events WHERE category = 'product'") events of retail-products into totals by country and month, set-based, while a reader asks for the sum of the
table all the time; $ROUNDS rounds, from es_rebuild_projection() to the commit that applied the differences.

| events/s | reads meanwhile | reads that saw anything else than the whole |
|---|---|---|
| $(awk -F '|' '{print $1}' "$ES_TMP/rebuild" | sort -g | awk '{v[NR] = $1} END {printf "%d (%d to %d)", v[int((NR + 1) / 2)], v[1], v[NR]}') | $(awk -F '|' '{n += $2} END {print n}' "$ES_TMP/rebuild") | $(awk -F '|' '{n += $3} END {print n}' "$ES_TMP/rebuild") |

## Catching up

A new projection of 500,000 events, sums by key: in batches of \`batch_size\` events, each in a transaction of one session; against
a loop in PL/pgSQL that upserts event by event and commits every 1,000. Medians of $ROUNDS rounds.

| keys | batch_size | events/s | the loop | ratio (least to greatest) |
|---:|---:|---:|---:|---:|
$(catchup_rows)
END
}

es_begin projection
es_need ''
es_build all
es_start_server "shared_preload_libraries = 'event_store'" 'shared_buffers = 1GB' 'jit = off' 'max_wal_size = 8GB' \
    'checkpoint_timeout = 1d' 'track_commit_timestamp = on' 'fsync = on' 'synchronous_commit = on' 'full_page_writes = on'
LOAD_BEFORE=$(load_average)
es_step 'making the store' sql -f "$BENCH/projection/setup.sql"
appends 2 >/dev/null
wait_for each
sql -c 'TRUNCATE each'
es_step 'lag' measure_lag
sql -c "SELECT es_drop_projection('each')" >/dev/null
sql -f "$BENCH/projection/nothing.sql" >/dev/null
es_step 'cost of workers' measure_cost nothing
sql -c "SELECT es_drop_projection('nothing')" >/dev/null
sql -f "$BENCH/projection/totals.sql" >/dev/null
wait_for totals
es_step 'cost of workers and a projection' measure_cost totals
sql -c "SELECT es_drop_projection('totals')" >/dev/null
es_step 'cost of seals' measure_seals
es_step 'importing' fill_retail
sql -f "$BENCH/projection/sales.sql" >/dev/null
wait_for sales
es_step 'rebuilds' rebuild_all
es_step 'catching up' catch_up
publish projection
