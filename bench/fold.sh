#!/usr/bin/env bash
# Measures folds: rules, SQL expressions and PL/pgSQL functions in es_load against loops, aggregates and a client over
# the same events, and a load from a snapshot against reading a row. About 3 minutes; writes results/fold.md.
#
# ROUNDS, SLICE (seconds), and those of test/lib.sh. Needs what make check needs.
set -euo pipefail
export TMPDIR=${TMPDIR:-/var/tmp}
# shellcheck source=test/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"
: "${ROUNDS:=7}" "${SLICE:=0.3}"
BENCH=$ES_TOP/bench

sql() { "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres "$@"; }

build_client() {
    gcc -std=gnu11 -O2 -Wall -Wextra -Werror -I"$("$ES_PG_CONFIG" --includedir)" -o "$ES_TMP/client" "$BENCH/fold/client.c" \
        -L"$("$ES_PG_CONFIG" --libdir)" -lpq
}

measure() { "$ES_TMP/client" -d "host=$PGHOST port=$PGPORT user=postgres dbname=postgres" -n "$ROUNDS" -t "$SLICE" >"$ES_TMP/slices.jsonl"; }

git_in_tree() { git -c safe.directory='*' -C "$ES_TOP" "$@" 2>/dev/null; }

report() {
    local commit
    commit=$(git_in_tree rev-parse --short HEAD || echo unknown)
    [[ -z $(git_in_tree status --porcelain -- src sql Makefile) ]] || commit+=' with changes'
    sql -c 'CREATE TABLE slices (line jsonb)' -c "\\copy slices FROM '$ES_TMP/slices.jsonl'"
    cat <<END
# Folds

event_store $(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'event_store'") ($commit), PostgreSQL $(sql -c 'SHOW server_version'); $(date -u +%Y-%m-%d).
$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores; $(uname -sr). Load average $LOAD_BEFORE before, $(cut -d ' ' -f 1 /proc/loadavg) after.

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
es_step 'building the client' build_client
es_start_server 'shared_buffers = 1GB' 'jit = off' 'autovacuum = off' 'max_wal_size = 8GB' 'checkpoint_timeout = 1d' 'work_mem = 64MB'
LOAD_BEFORE=$(cut -d ' ' -f 1 /proc/loadavg)
es_step 'filling the store' sql -f "$BENCH/fold/setup.sql"
es_step "measuring, $ROUNDS rounds" measure
mkdir -p "$BENCH/results"
report >"$ES_TMP/fold.md"
cp "$ES_TMP/fold.md" "$BENCH/results/fold.md"
cat "$BENCH/results/fold.md"
