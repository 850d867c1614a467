#!/usr/bin/env bash
# Measures folds: rules, SQL expressions and PL/pgSQL functions in es_load against loops, aggregates and a client over
# the same events, and a load from a snapshot against reading a row. About 3 minutes; writes results/fold.md.
#
# ROUNDS, SLICE (seconds), and those of test/lib.sh. Needs what make check needs.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${ROUNDS:=7}" "${SLICE:=0.3}"

sql() { "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres "$@"; }

measure() { "$ES_TMP/client" -d "host=$PGHOST port=$PGPORT user=postgres dbname=postgres" -n "$ROUNDS" -t "$SLICE" >"$ES_TMP/slices.jsonl"; }

report() {
    sql -c 'CREATE TABLE slices (line jsonb)' -c "\\copy slices FROM '$ES_TMP/slices.jsonl'"
    cat <<END
# Folds

event_store $(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'event_store'") ($(measured_commit)), PostgreSQL $(sql -c 'SHOW server_version'); $(date -u +%Y-%m-%d).
$(machine); $(uname -sr). Load average $LOAD_BEFORE before, $(load_average) after.

An account: Opened, Deposited, Withdrawn; each event has about 105 bytes of JSON, the state an owner, an exact balance and two
counts. Medians of $ROUNDS rounds, each with every variant for $SLICE s in random order; ratios are taken inside a round.
CPU is what the backend and the client ran, by the kernel's count; "a core" is one that does nothing else. All events
are in shared memory.
\`bench/README.md\` says more.
END
    sql -f "$BENCH/fold/report.sql"
}

es_begin fold
es_need ''
es_build all
es_step 'building the client' build_client client "$BENCH/fold/client.c"
es_start_server 'shared_buffers = 1GB' 'jit = off' 'autovacuum = off' 'max_wal_size = 8GB' 'checkpoint_timeout = 1d' 'work_mem = 64MB'
LOAD_BEFORE=$(load_average)
es_step 'filling the store' sql -f "$BENCH/fold/setup.sql"
es_step "measuring, $ROUNDS rounds" measure
publish fold
