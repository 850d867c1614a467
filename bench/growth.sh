#!/usr/bin/env bash
# Measures what a large log costs: appends, loads and pages at growing sizes of one store; and how much is ingested in a
# minute, while a small client wants short answers. About 20 minutes and 60 GB of disk for 30 million events; writes
# results/growth.md.
#
# SIZES (millions of events), STREAMS, MINUTE (seconds of each ingest), ROUNDS, and those of test/lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${SIZES:=1 2 5 10 20 30}" "${STREAMS:=1000000}" "${MINUTE:=60}" "${ROUNDS:=5}"

sql() { "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d event_store "$@"; }
driver() { "$ES_TMP/driver" -d "host=$PGHOST port=$PGPORT" -S "$STREAMS" "$@"; }
# field NAME of the driver's line of JSON
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }
median() { sort -g | awk '{v[NR] = $1} END {printf "%.4g", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# Microseconds of the server for each of many calls in one statement; \timing would count the client too.
per_call() {
    sql -c "EXPLAIN (ANALYZE, TIMING off, SUMMARY) $2" | awk -v n="$1" '/^Execution Time/ {printf "%.2f\n", $3 * 1000 / n}'
}

# Appends as they are between two checkpoints: the pages of the heads have been changed since the last one.
measure_size() {
    local millions=$1 i events
    events=$(sql -c "SELECT reltuples::bigint FROM (SELECT sum(reltuples) AS reltuples FROM pg_class
        WHERE relname ~ '^log_[0-9]+\$' AND relkind = 'r') t")
    for ((i = 0; i < ROUNDS; i++)); do
        driver -v es-append -c 1 -t 2 -r $((millions * 100 + i)) >>"$ES_TMP/append.$millions" || return
        per_call 2500 "SELECT count(es_load('replayed-' || i % 500 + 1)) FROM generate_series(1, 2500) i" >>"$ES_TMP/replayed.$millions"
        per_call 5000 "SELECT count(es_load('snapshot-' || i % 100 + 1)) FROM generate_series(1, 5000) i" >>"$ES_TMP/snapshot.$millions"
        per_call 20 "SELECT sum(n) FROM generate_series(1, 20) i, LATERAL (SELECT count(*) AS n
            FROM es_read_all((es_high_water_mark() / 21) * i, 1000)) p" >>"$ES_TMP/page.$millions"
    done
    sql -F ' | ' -c "SELECT to_char($events, '999,999,999'), (SELECT count(*) FROM event_store.partitions),
        (SELECT sum(pg_total_relation_size(c.oid)) / $events FROM pg_class c WHERE relnamespace = 'event_store'::regnamespace
            AND relkind = 'r')::int" >"$ES_TMP/store.$millions"
}

grow() {
    local millions=$1 missing
    missing=$((millions * 1000000 - $(sql -c 'SELECT count(*) FROM event_store.log')))
    driver -v es-batch -c 2 -b 1000 -n "$missing" -r "$millions" >"$ES_TMP/grow.json" || return
    field rate <"$ES_TMP/grow.json" | awk '{printf "%d", $1}' >"$ES_TMP/rate.$millions"
    sql -c 'VACUUM ANALYZE' -c CHECKPOINT
    # So that the first change of each page after the checkpoint, which writes it into the WAL whole, is behind us.
    driver -v es-batch -c 1 -b 1000 -n $((STREAMS / 5)) -r $((millions + 1000)) >/dev/null
}

# One minute of a load, with a client beside it that sends 20 calls of ten events a second.
ingest() {
    local name=$1
    shift
    "$ES_BIN/pgbench" -n -M prepared -U app -c 1 -T "$MINUTE" -R 20 -l --log-prefix="$ES_TMP/calls.$name" \
        -f "$BENCH/growth/calls.sql" event_store >>"$ES_LOG" 2>&1 &
    driver "$@" -o -t "$MINUTE" -r 77 >"$ES_TMP/ingest.$name" || return
    wait $! || return
    # pgbench counts from when a call was due, so what queued is in it
    awk '{print $3 / 1000}' "$ES_TMP/calls.$name".* | sort -g |
        awk '{v[NR] = $1} END {printf "%.2f | %.2f | %d", v[int((NR + 1) / 2)], v[int(NR * .99 + .5)], NR}' >"$ES_TMP/latency.$name"
}

ingest_row() {
    printf '| %s | %s | %s | %s | %s | %s |\n' "$2" "$(field rate <"$ES_TMP/ingest.$1" | awk '{printf "%d", $1}')" \
        "$(field cpu_us <"$ES_TMP/ingest.$1")" "$(field client_cpu_us <"$ES_TMP/ingest.$1")" \
        "$(field wal_bytes <"$ES_TMP/ingest.$1")" "$(<"$ES_TMP/latency.$1")"
}

report() {
    local millions
    cat <<END
# A large log

event_store 0.2.0 ($(measured_commit)), PostgreSQL $(sql -c 'SHOW server_version'); $(date -u +%Y-%m-%d).
$(machine), shared by clients and server; memory $(free -g | awk '/^Mem/ {print $2}') GB, shared_buffers 2 GB;
$(uname -sr). Load average $LOAD_BEFORE before, $(load_average) after. fsync, synchronous_commit and full_page_writes on.

## Growth

One store of $(sql -c "SELECT to_char($STREAMS, 'FM999,999,999')") streams, filled by two clients with es_append_batch of 1,000 events over random streams; at each size
$ROUNDS rounds, medians. Single appends by one client, CPU and WAL of the server. Loads replay 100 events, or nothing after a snapshot of
1,000 events; pages of 1,000 events begin all over the log; microseconds of the server for each, in one statement.

| events | partitions | bytes an event | filled with events/s | append: CPU µs | WAL bytes | p50 ms | load, 100 events: µs | load, snapshot: µs | page: µs |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
END
    for millions in $SIZES; do
        echo "| $(<"$ES_TMP/store.$millions") | $(<"$ES_TMP/rate.$millions") | $(field cpu_us <"$ES_TMP/append.$millions" | median) | $(field wal_bytes <"$ES_TMP/append.$millions" | median) | $(field p50_us <"$ES_TMP/append.$millions" | median | awk '{printf "%.2f", $1 / 1000}') | $(median <"$ES_TMP/replayed.$millions") | $(median <"$ES_TMP/snapshot.$millions") | $(median <"$ES_TMP/page.$millions") |"
    done
    cat <<END

## A minute of ingest

Into that store, $MINUTE s each, clients on the same cores; calls of 1,000 events, each durable before the next. Beside it a client appends
ten events a call, 20 calls a second; its times are from when a call was due.

| load | events/s | CPU µs an event | of the client | WAL bytes an event | calls of ten: p50 ms | p99 ms | calls |
|---|---:|---:|---:|---:|---:|---:|---:|
$(ingest_row batch1 'es_append_batch over random streams, 1 client')
$(ingest_row batch2 'es_append_batch over random streams, 2 clients')
$(ingest_row copy2 'COPY event_store.import over random streams, 2 clients')
$(ingest_row events2 'es_append of a JSON array into one stream, 2 clients')
END
}

es_begin growth
es_need ''
es_build all
es_step 'building the driver' build_driver
es_start_server 'shared_buffers = 2GB' 'jit = off' 'max_wal_size = 16GB' 'min_wal_size = 4GB' 'checkpoint_timeout = 1d' 'fsync = on' \
    'synchronous_commit = on' 'full_page_writes = on' 'autovacuum = off' 'event_store.partition_size = 1500000'
"$ES_BIN/createdb" event_store
LOAD_BEFORE=$(load_average)
es_step 'making the store' sql -f "$BENCH/growth/setup.sql"
for millions in $SIZES; do
    es_step "growing to $millions million events" grow "$millions"
    es_step 'measuring' measure_size "$millions"
done
es_step 'ingest: one client' ingest batch1 -v es-batch -c 1 -b 1000
es_step 'ingest: two clients' ingest batch2 -v es-batch -c 2 -b 1000
es_step 'ingest: two clients, COPY' ingest copy2 -v es-import -c 2 -b 1000
es_step 'ingest: two clients, one stream a call' ingest events2 -v es-events -c 2 -b 1000
publish growth
