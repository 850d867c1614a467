#!/usr/bin/env bash
# Measures event_store against Message DB in one private server and writes a table of ratios.
#
#     bench/run.sh             3 rounds of 2 s a cell, results/latest.md
#     QUICK=1 bench/run.sh     3 rounds of 0.7 s a cell on smaller stores, results/quick.md
#
# Also ROUNDS, SLICE (seconds), REPEATS (of slices that were disturbed, in all), EVENTS (that each store is filled with first),
# WAL_SEGMENTS (of 16 MB, made beforehand), BUFFERS_MB (room for both stores to the end; less on small machines), ONLY (a regular expression: the cells to run, such as 'es-batch|unnest' or
# ' 16 1$'; results/quick.md), and those of test/lib.sh.
set -euo pipefail

# The disk is what is measured; /tmp is often memory.
export TMPDIR=${TMPDIR:-/var/tmp}
. "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"

MESSAGE_DB='@eventide/message-db@1.3.1'
BENCH=$ES_TOP/bench

if [[ -n ${QUICK:-} ]]; then
    : "${ROUNDS:=3}" "${SLICE:=0.7}" "${REPEATS:=0}" "${EVENTS:=100000}" "${WAL_SEGMENTS:=100}" "${BUFFERS_MB:=2048}"
else
    : "${ROUNDS:=3}" "${SLICE:=2}" "${REPEATS:=100}" "${EVENTS:=300000}" "${WAL_SEGMENTS:=300}" "${BUFFERS_MB:=4096}"
fi
if [[ -n ${QUICK:-}${ONLY:-} ]]; then
    RESULT=$BENCH/results/quick
else
    RESULT=$BENCH/results/latest
fi
# The default is room for both stores to the end, so that neither pays for the other's evictions.
(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) > 15000000)) || BUFFERS_MB=1024
# Fewer events a stream, and Message DB's planner reads a whole stream to find its version (README.md).
STREAMS=$((EVENTS / 10))

# variant clients batch
cells() {
    local n
    for n in 1 4 16; do
        printf '%s\n' "commit-only $n 1" "es-append $n 1" "mdb-write $n 1" "mdb-write-own $n 1"
    done
    printf '%s\n' 'es-events 1 1' 'es-batch 1 1'
    for n in 10 100 1000; do
        printf '%s\n' "es-events 1 $n" "es-pipeline 1 $n" "mdb-txn 1 $n" "mdb-pipeline 1 $n" "mdb-unnest 1 $n"
        printf '%s\n' "es-batch 1 $n" "mdb-txn-scattered 1 $n" "mdb-pipeline-scattered 1 $n" "mdb-unnest-scattered 1 $n"
    done
}

# ------------------------------------------------------------------ set up

need_npm() {
    command -v npm >/dev/null && return
    if is_root && command -v apt-get >/dev/null; then
        es_step 'installing nodejs and npm' es_apt nodejs npm
    else
        es_fail 'npm is missing: Message DB is an npm package, and node makes the report'
    fi
}

build_driver() {
    local include lib
    include=$("$ES_PG_CONFIG" --includedir) lib=$("$ES_PG_CONFIG" --libdir)
    gcc -std=gnu11 -O2 -Wall -Wextra -Werror -I"$include" -o "$ES_TMP/driver" "$BENCH"/*.c -L"$lib" -lpq -lpthread
}

sql() {
    local database=$1
    shift
    "$ES_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d "$database" "$@"
}

# Checkpoints are put off past the end: with one, a round's full-page images would depend on how long ago it was.
start_server() {
    [[ $(stat -f -c %T "$ES_TMP") != tmpfs ]] || es_fail "$ES_TMP is in memory: set TMPDIR to a directory on a disk"
    es_start_server 'fsync = on' 'synchronous_commit = on' 'full_page_writes = on' "shared_buffers = ${BUFFERS_MB}MB" \
        'min_wal_size = 64GB' 'max_wal_size = 64GB' 'checkpoint_timeout = 1d' 'autovacuum = off' 'jit = off'
}

# What a server that has run for a while has behind it, and what would else be counted as the stores' work, a tenth of
# a batch's CPU each:
# - It writes its WAL into old files. Without checkpoints there are none, and sessions would fill new ones with zeros
#   first. So make some, and let one checkpoint keep them for later.
# - It has used all of its shared memory. The kernel clears a page when it is first touched, here by a table that is
#   dropped again.
age_server() {
    sql postgres -c 'CREATE UNLOGGED TABLE filler (page text)' -c 'ALTER TABLE filler ALTER page SET STORAGE PLAIN' \
        -c "INSERT INTO filler SELECT repeat('x', 8100) FROM generate_series(1, $BUFFERS_MB * 128)" -c 'DROP TABLE filler'
    sql postgres -c "DO \$\$ BEGIN
            FOR i IN 1..$WAL_SEGMENTS LOOP
                PERFORM pg_logical_emit_message(false, '', '');
                PERFORM pg_switch_wal();
            END LOOP;
        END \$\$" -c CHECKPOINT
}

install_event_store() {
    sql postgres -c 'CREATE DATABASE event_store' -c 'CREATE ROLE app LOGIN'
    sql event_store -c 'CREATE EXTENSION event_store' -c 'SELECT es_create_store()' -c "SELECT es_grant('app', 'append')"
}

# Message DB's own installer, which wants psql and createdb in the path; its functions need its search_path.
install_message_db() {
    mkdir -p "$ES_TMP/npm"
    npm install --prefix "$ES_TMP/npm" --no-audit --no-fund --no-package-lock "$MESSAGE_DB"
    PATH=$ES_BIN:$PATH DATABASE_NAME=message_store bash "$ES_TMP/npm/node_modules/@eventide/message-db/database/install.sh"
    sql message_store -c 'ALTER DATABASE message_store SET search_path = message_store, public'
}

driver() {
    "$ES_TMP/driver" -d "host=$PGHOST port=$PGPORT" "$@"
}

fill() {
    driver -v "$1" -b 1000 -n "$EVENTS" -S "$STREAMS"
}

# Message DB finds a stream's version with max(): from the end of the index, or by reading the stream, as the
# statistics of the moment suggest. It gets the good plan, or the comparison is not fair.
check_plan() {
    local plan
    # shellcheck disable=SC2016 # $1 is the statement's
    plan=$(sql message_store -c 'SET plan_cache_mode = force_generic_plan' \
        -c 'PREPARE q(text) AS SELECT max(position) FROM messages WHERE stream_name = $1' -c "EXPLAIN EXECUTE q('x')")
    [[ $plan == *Backward* ]] || es_fail "Message DB would read whole streams: $plan"
}

# ------------------------------------------------------------------ measure

redo_location() { sql postgres -c 'SELECT redo_lsn FROM pg_control_checkpoint()'; }

# The cells of one round: what is compared with each other runs within seconds, all else in random order.
shuffled() {
    local group
    while read -r group; do
        grep -- " $group\$" <<<"$1" | shuf
    done < <(cut -d ' ' -f 2- <<<"$1" | sort -u | shuf)
}

# Prints a slice's figures. One in which other work on the machine took more than 30 % of a core is done again a little
# later, as long as there are REPEATS left, and the least disturbed is kept: chosen by the disturbance, not by the figure.
slice() {
    local variant=$1 clients=$2 batch=$3 round=$4 try=1 foreign least='' line best=''
    while :; do
        line=$(driver -v "$variant" -c "$clients" -b "$batch" -t "$SLICE" -S "$STREAMS" -r "$((round * 1000 + try))" 2>>"$ES_LOG") ||
            return 1
        foreign=${line##*\"foreign_percent\":}
        foreign=${foreign%\}}
        [[ -n $least && $least -le $foreign ]] || best=$line least=$foreign
        ((least > 30 && REPEATS > 0)) || break
        REPEATS=$((REPEATS - 1)) try=$((try + 1))
        sleep 3
    done
    printf '{"round":%d,"tries":%d,%s\n' "$round" "$try" "${best#\{}"
}

# Autovacuum is off: it would fall into some slices and not into others, and its WAL with it.
vacuum() {
    sql event_store -c 'VACUUM ANALYZE'
    sql message_store -c 'VACUUM ANALYZE'
    check_plan
}

run_rounds() {
    local list round n=0 total variant clients batch redo
    list=$(cells | grep -E -- "${ONLY:-}") || es_fail "no cell matches '$ONLY'"
    total=$(($(wc -l <<<"$list") * ROUNDS))
    redo=$(redo_location)
    : >"$ES_TMP/slices.jsonl"
    for ((round = 1; round <= ROUNDS; round++)); do
        vacuum
        while read -r variant clients batch; do
            n=$((n + 1))
            [[ ! -t 1 ]] || printf '\r\e[Kmeasuring %d of %d: %s, clients %d, batch %d' "$n" "$total" "$variant" "$clients" "$batch"
            slice "$variant" "$clients" "$batch" "$round" >>"$ES_TMP/slices.jsonl" ||
                es_fail "$variant with $clients clients and batches of $batch failed"
        done < <(shuffled "$list")
    done
    [[ ! -t 1 ]] || printf '\r\e[K'
    [[ $(redo_location) == "$redo" ]] || es_fail 'a checkpoint ran in between: full-page images are in the figures'
}

# Disk: heap, indexes, everything in the store's schema.
bytes_per_event() {
    sql "$1" -c "SELECT round(sum(pg_total_relation_size(c.oid)) / (SELECT count(*) FROM $2), 1)
                 FROM pg_class c WHERE c.relnamespace = '$1'::regnamespace AND c.relkind = 'r'"
}

git_in_tree() { git -c safe.directory='*' -C "$ES_TOP" "$@" 2>/dev/null; }

# One "name<TAB>value" a line, for report.mjs.
facts() {
    local commit
    commit=$(git_in_tree rev-parse --short HEAD || echo unknown)
    [[ -z $(git_in_tree status --porcelain -- src sql Makefile) ]] || commit+=' with changes'
    printf '%s\t%s\n' \
        date "$(date -u +%Y-%m-%d)" \
        event_store "$(sql event_store -c "SELECT extversion FROM pg_extension WHERE extname = 'event_store'") ($commit)" \
        postgresql "$(sql postgres -c 'SHOW server_version')" \
        message_db "${MESSAGE_DB##*@}" \
        cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores" \
        memory "$(awk '/^MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo), shared_buffers $BUFFERS_MB MB" \
        kernel "$(uname -sr)" \
        rounds "$ROUNDS" slice "$SLICE" events "$EVENTS" streams "$STREAMS" \
        disk_event_store "$(bytes_per_event event_store event_store.events)" \
        disk_message_db "$(bytes_per_event message_store message_store.messages)"
}

report() {
    mkdir -p "$BENCH/results"
    facts >"$ES_TMP/facts.tsv"
    node "$BENCH/report.mjs" "$ES_TMP/facts.tsv" "$ES_TMP/slices.jsonl" >"$ES_TMP/report.md"
    cp "$ES_TMP/report.md" "$RESULT.md"
    cp "$ES_TMP/slices.jsonl" "$RESULT.jsonl"
    cat "$RESULT.md"
    echo
    echo "written to ${RESULT#"$ES_TOP/"}.md, the single slices to ${RESULT#"$ES_TOP/"}.jsonl"
}

es_begin bench
es_need ''
need_npm
es_build all
es_step 'building the driver' build_driver
start_server
es_step 'ageing the server' age_server
es_step 'installing event_store' install_event_store
es_step 'installing Message DB' install_message_db
es_step "filling event_store with $EVENTS events" fill es-batch
es_step "filling Message DB with $EVENTS events" fill mdb-unnest-scattered
run_rounds
report
