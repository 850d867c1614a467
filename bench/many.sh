#!/usr/bin/env bash
# Measures what many projections cost each other: how long an event takes to one of them, alone, beside 50 others that do not want
# it, and beside two whose handlers are slow; and what an event costs that one of 50 wants, or none. About a minute; writes
# results/many.md.
#
# N (events), and those of test/lib.sh. Needs what make check needs.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${N:=200}"

sql() { "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres "$@"; }

measure() { sql -c "CALL measure('$1', $2, $3)" >/dev/null; }

all_passed() {
    sql -c "SELECT bool_and(es_wait_for_projection(name, (SELECT max(position) FROM event_store.events), '10 min')) FROM event_store.projections" >/dev/null
}

# cost TYPE: commits and bytes of WAL for an event, its append and the measuring included, by 100 of them.
cost() {
    local commits lsn
    all_passed
    sleep 1                # what a session counts is there a second later at the latest
    commits=$(sql -c "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")
    lsn=$(sql -c 'SELECT pg_current_wal_insert_lsn()')
    sql -c "CALL append_some('$1', 100)" >/dev/null
    all_passed
    sleep 1
    sql -c "INSERT INTO measured SELECT 'commits $1', (xact_commit - $commits) / 100.0 FROM pg_stat_database WHERE datname = 'postgres'"
    sql -c "INSERT INTO measured SELECT 'wal $1', pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$lsn') / 100.0"
}

others() {
    sql -c "CREATE TABLE seen (name text, position bigint)"
    for ((i = 1; i <= 50; i++)); do
        sql -c "SELECT es_create_projection('p$i', 'INSERT INTO seen SELECT ''p$i'', position FROM new_events', event_types => '{T$i}')" >/dev/null
    done
    all_passed
}

slow() {
    for i in 1 2; do
        sql -c "SELECT es_create_projection('slow$i', 'SELECT pg_sleep(2), count(*) FROM new_events', event_types => '{Slow}')" >/dev/null
    done
    sql -c "CALL append_some('Slow', 1)" >/dev/null
    all_passed
    # They are busy all the time: an event after the other.
    sql -c "CALL append_some('Slow', 200)" >/dev/null &
    sleep 3
    measure slow 40 0.1
    kill $! 2>/dev/null || true
}

figures() {
    sql -F ' | ' -c "SELECT round(p[1]::numeric, 1) || ' ms', round(p[2]::numeric, 1) || ' ms', round(p[3]::numeric, 1) || ' ms'
        FROM (SELECT percentile_disc(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY ms) AS p FROM measured WHERE what = '$1') q"
}

one() { sql -c "SELECT round(ms::numeric, 1) FROM measured WHERE what = '$1'"; }

report() {
    cat <<END
# Many projections

event_store $(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'event_store'") ($(measured_commit)), PostgreSQL $(sql -c 'SHOW server_version'); $(date -u +%Y-%m-%d).
$(machine), shared by clients, server and workers; $(uname -sr). Load average
$LOAD_BEFORE before, $(load_average) after. Durable appends (fsync on), \`event_store.max_workers\` = 2.

From the commit of an append, one every 20 ms, to the return of \`es_wait_for_projection\` for a projection that wants it:

| | median | 90 % | 99 % |
|---|---|---|---|
| alone | $(figures alone) |
| with 50 other projections, which do not want it | $(figures many) |
| with two more, whose handlers take 2 s and have always something to do | $(figures slow) |

What an event costs with these 51 projections, its append included, by 100 events 50 ms apart:

| | commits | WAL, bytes |
|---|---|---|
| that one of them wants | $(one 'commits T1') | $(one 'wal T1') |
| that nobody wants | $(one 'commits T0') | $(one 'wal T0') |
END
}

es_begin many
es_need ''
es_build all
es_start_server "shared_preload_libraries = 'event_store'" 'jit = off' 'max_wal_size = 4GB' 'checkpoint_timeout = 1d' 'fsync = on' \
    'synchronous_commit = on' 'full_page_writes = on' 'autovacuum = off' 'event_store.seal_interval = 0'
LOAD_BEFORE=$(load_average)
es_step 'making the store' sql -f "$BENCH/projection/many.sql"
measure warm 20 0
es_step 'alone' measure alone "$N" 0.02
es_step '50 others' others
measure warm 20 0
es_step 'with 50 others' measure many "$N" 0.02
es_step 'an event that one wants' cost T1
es_step 'an event that nobody wants' cost T0
es_step 'beside slow ones' slow
publish many
