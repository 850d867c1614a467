#!/usr/bin/env bash
# Measures what an application waits for a state: es_load against fetching the events and folding them in Node, by Emmett's
# client and from Message DB. About a minute; needs npm; writes results/clients.md.
#
# ROUNDS, SIZES (events of the stream), and those of test/lib.sh.
set -euo pipefail
export TMPDIR=${TMPDIR:-/var/tmp}
# shellcheck source=test/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"
: "${ROUNDS:=15}" "${SIZES:=100 1000 10000}"
BENCH=$ES_TOP/bench
MESSAGE_DB='@eventide/message-db@1.3.1'
EMMETT='@event-driven-io/emmett-postgresql@0.42.0'

sql() { "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 "$@"; }

install_packages() {
    command -v npm >/dev/null || es_fail 'npm is missing: the peers are npm packages'
    mkdir -p "$ES_TMP/npm"
    npm install --prefix "$ES_TMP/npm" --no-audit --no-fund --no-package-lock "$MESSAGE_DB" "$EMMETT" && cp "$BENCH/clients/load.mjs" "$ES_TMP/npm/"
}

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

git_in_tree() { git -c safe.directory='*' -C "$ES_TOP" "$@" 2>/dev/null; }

report() {
    local commit
    commit=$(git_in_tree rev-parse --short HEAD || echo unknown)
    [[ -z $(git_in_tree status --porcelain -- src sql Makefile) ]] || commit+=' with changes'
    sql -d postgres -c 'CREATE TABLE loads (events int, round int, way text, ms float8)' -c "\\copy loads FROM '$ES_TMP/loads'"
    cat <<END
# Loading a state from Node

event_store 0.1.0 ($commit), Message DB 1.3.1, Emmett 0.42.0, Node $(node --version), PostgreSQL $(sql -d postgres -c 'SHOW server_version'); $(date -u +%Y-%m-%d).
$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores; $(uname -sr). Load average $LOAD_BEFORE before, $(cut -d ' ' -f 1 /proc/loadavg) after.

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
es_build all
es_step 'fetching the peers' install_packages
es_start_server 'shared_buffers = 512MB' 'jit = off'
LOAD_BEFORE=$(cut -d ' ' -f 1 /proc/loadavg)
for size in $SIZES; do
    es_step "loading streams of $size events" measure "$size"
done
mkdir -p "$BENCH/results"
report >"$ES_TMP/clients.md"
cp "$ES_TMP/clients.md" "$BENCH/results/clients.md"
cat "$BENCH/results/clients.md"
