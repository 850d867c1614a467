#!/usr/bin/env bash
# Measures what an application waits for a state: es_load against fetching the events and folding them in Node, by Emmett's
# client and from Message DB. About a minute; needs npm; writes results/clients.md.
#
# ROUNDS, SIZES (events of the stream), and those of test/lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${ROUNDS:=15}" "${SIZES:=100 1000 10000}"

sql() { "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 "$@"; }

fetch_peers() { install_packages && cp "$BENCH/clients/load.mjs" "$ES_TMP/npm/"; }

# New databases for each size: the same stream, so many events.
measure() {
    local events=$1 database
    for database in event_store message_store emmett; do
        sql -d postgres -c "DROP DATABASE IF EXISTS $database WITH (FORCE)"
    done
    "$ES_BIN/createdb" event_store && "$ES_BIN/createdb" emmett || return
    PATH=$ES_BIN:$PATH DATABASE_NAME=message_store bash "$ES_TMP/npm/node_modules/@eventide/message-db/database/install.sh" >>"$ES_LOG" 2>&1
    sql -d event_store -c 'CREATE EXTENSION event_store' -c 'SELECT es_create_store()' \
        -c "SELECT es_register_aggregate('account', snapshot_every => 1000000, initial_state => '{\"balance\": 0}', rules => '{
            \"Opened\": {\"set\": {\"owner\": \"owner\"}}, \"Deposited\": {\"add\": {\"balance\": \"amount\"}, \"count\": \"deposits\"},
            \"Withdrawn\": {\"subtract\": {\"balance\": \"amount\"}, \"count\": \"withdrawals\"}}')" >/dev/null
    (cd "$ES_TMP/npm" && node load.mjs "$ES_TMP" "$events" "$ROUNDS") | sed "s/^/$events\t/" >>"$ES_TMP/loads"
}

report() {
    sql -d postgres -c 'CREATE TABLE loads (events int, round int, way text, ms float8)' -c "\\copy loads FROM '$ES_TMP/loads'"
    cat <<END
# Loading a state from Node

event_store 0.2.0 ($(measured_commit)), Message DB ${MESSAGE_DB##*@}, Emmett ${EMMETT##*@}, Node $(node --version), PostgreSQL $(sql -d postgres -c 'SHOW server_version'); $(date -u +%Y-%m-%d).
$(machine); $(uname -sr). Load average $LOAD_BEFORE before, $(load_average) after.

What a call takes, seen by the client, without a snapshot anywhere; all compute the same state. Medians of $ROUNDS rounds with all ways in random
order; the ratio is taken inside a round.

| events | way | ms | events/s | time / es_load (least to greatest) |
|---:|---|---:|---:|---:|
$(sql -d postgres -F ' | ' -c "SELECT '| ' || to_char(l.events, 'FM999,999'), l.way, round(percentile_disc(0.5) WITHIN GROUP (ORDER BY l.ms)::numeric, 2),
    to_char(l.events / (percentile_disc(0.5) WITHIN GROUP (ORDER BY l.ms) / 1000), 'FM999,999,999'),
    format('%s (%s to %s) |', round(percentile_disc(0.5) WITHIN GROUP (ORDER BY l.ms / o.ms)::numeric, 1), round(min(l.ms / o.ms)::numeric, 1), round(max(l.ms / o.ms)::numeric, 1))
    FROM loads l JOIN loads o ON o.events = l.events AND o.round = l.round AND o.way LIKE 'es_load%' GROUP BY l.events, l.way ORDER BY l.events, min(l.ms)")
END
}

es_begin clients
es_need ''
need_npm
es_build all
es_step 'fetching the peers' fetch_peers
es_start_server 'shared_buffers = 512MB' 'jit = off'
LOAD_BEFORE=$(load_average)
for size in $SIZES; do
    es_step "loading streams of $size events" measure "$size"
done
publish clients
