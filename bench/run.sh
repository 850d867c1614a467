#!/usr/bin/env bash
# Measures event_store against its peers in one private server; writes tables of ratios and plots.
#
#     bench/run.sh             3 rounds of 2 s a cell, results/latest.md
#     QUICK=1 bench/run.sh     3 rounds of 0.4 s a cell, fewer cells, smaller stores; results/quick.md
#
# Also ROUNDS, SLICE (seconds), REPEATS (of slices that were disturbed, in all), TRIES (of one), PAUSE (seconds before
# one), EVENTS (that each store is filled with first), WAL_SEGMENTS (of 16 MB, made beforehand), BUFFERS_MB (room for all
# stores to the end; less on small machines), ONLY (a regular expression: the cells to run, such as 'es-batch|unnest',
# '^slow' or ' 16 1$'; results/part.md), and those of test/lib.sh.
set -euo pipefail

# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -n ${QUICK:-} ]]; then
    : "${ROUNDS:=3}" "${SLICE:=0.4}" "${REPEATS:=20}" "${TRIES:=3}" "${PAUSE:=1}"
    : "${EVENTS:=100000}" "${WAL_SEGMENTS:=100}" "${BUFFERS_MB:=2048}"
    BATCHES='100 1000'
else
    : "${ROUNDS:=3}" "${SLICE:=2}" "${REPEATS:=100}" "${TRIES:=20}" "${PAUSE:=3}"
    : "${EVENTS:=300000}" "${WAL_SEGMENTS:=500}" "${BUFFERS_MB:=6144}"
    BATCHES='10 100 1000'
fi
if [[ -n ${ONLY:-} ]]; then
    RESULT=$BENCH/results/part
elif [[ -n ${QUICK:-} ]]; then
    RESULT=$BENCH/results/quick
else
    RESULT=$BENCH/results/latest
fi
# The default is room for all stores to the end, so that neither pays for the other's evictions.
(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) > 15000000)) || BUFFERS_MB=1024
# Fewer events a stream, and Message DB's planner reads a whole stream to find its version (README.md).
STREAMS=$((EVENTS / 10))

# disk variant clients batch
cells() {
    local n
    for n in 1 8 16; do
        printf "native %s $n 1\n" commit-only es-append mdb-write mdb-write-own emmett classic
        printf "slow %s $n 1\n" commit-only es-append mdb-write classic
        printf "slow %s $n 1\n" es-hot mdb-hot update
    done
    printf '%s 1\n' 'native es-append-late 8' 'native es-append-late 16' 'slow es-append-late 16'
    for n in native slow; do
        printf "$n %s 16 1\n" es-hot-late es-exact es-exact-late mdb-exact
    done
    printf 'native %s 16 1\n' es-hot mdb-hot update
    printf 'native %s 1 1\n' es-events es-batch
    for n in $BATCHES; do
        printf "native %s 1 $n\n" es-events mdb-txn mdb-pipeline mdb-unnest emmett copy
        printf "native %s 1 $n\n" es-batch es-import copy-scattered
        printf "native mdb-%s-scattered 1 $n\n" txn pipeline unnest
        [[ -n ${QUICK:-} ]] || printf "native %s 1 $n\n" es-pipeline
    done
    printf 'native %s 1 1000\n' es-read-all es-read-category mdb-read es-read-type mdb-read-type es-read-rare mdb-read-rare
}

# ------------------------------------------------------------------ set up

build_driver_and_shim() {
    build_driver
    gcc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$ES_TMP/slowsync.so" "$ES_TOP/test/shim/slowsync.c" -ldl
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
        'min_wal_size = 64GB' 'max_wal_size = 64GB' 'checkpoint_timeout = 1d' 'autovacuum = off' 'jit = off' \
        'event_store.early_lock_release = on' "shared_preload_libraries = 'event_store'"
}

# Early lock release needs the library to be preloaded. The background processes that this brings are no part of what is
# compared.
stop_workers() {
    sql event_store -c 'SELECT es_stop_worker()' >/dev/null
}

# The same server, 1 ms slower at each flush: a disk across a network. Its buffers are empty and each page that is changed
# for the first time goes into the WAL whole, so both are done before anything is measured.
slow_server() {
    as_user "$ES_BIN/pg_ctl" -D "$ES_DATA" -m fast -w stop
    as_user env LD_PRELOAD="$ES_TMP/slowsync.so" SLOWSYNC_US=1000 \
        "$ES_BIN/pg_ctl" -D "$ES_DATA" -l "$ES_SERVER_LOG" -w start
    stop_workers
    vacuum
    driver -v es-batch -b 1000 -n $((EVENTS / 4)) -S "$STREAMS" -r 501
    driver -v mdb-unnest-scattered -b 1000 -n $((EVENTS / 4)) -S "$STREAMS" -r 501
    driver -v classic -c 32 -n $((EVENTS / 6)) -S "$STREAMS" -r 501
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
    sql postgres -c 'CREATE DATABASE event_store' -c 'CREATE ROLE app LOGIN' -c 'CREATE ROLE reader LOGIN' \
        -c 'CREATE ROLE importer LOGIN'
    sql event_store -c 'CREATE EXTENSION event_store' -c 'SELECT es_create_store()' -c "SELECT es_grant('app', 'append')" \
        -c "SELECT es_grant('reader', 'read')" -c "SELECT es_grant('importer', 'import')"
    stop_workers
}

# Message DB's own installer, which wants psql and createdb in the path; its functions need its search_path.
install_message_db() {
    PATH=$ES_BIN:$PATH DATABASE_NAME=message_store bash "$ES_TMP/npm/node_modules/@eventide/message-db/database/install.sh"
    sql message_store -c 'ALTER DATABASE message_store SET search_path = message_store, public' \
        -c 'ALTER DATABASE message_store SET message_store.sql_condition = on'
}

# Emmett prints the SQL of its schema. The tables beside it are what a programmer writes by hand: one that its rows are
# inserted into, one with our log's two indexes for COPY, one with a row to update.
install_peers() {
    sql postgres -c 'CREATE DATABASE peers' -c 'CREATE ROLE peer LOGIN'
    cat >"$ES_TMP/npm/schema.mjs" <<'END'
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';
const store = getPostgreSQLEventStore('postgresql://nobody@localhost/none');
process.stdout.write(store.schema.sql(), () => process.exit(0));
END
    node "$ES_TMP/npm/schema.mjs" >"$ES_TMP/emmett.sql"
    sql peers -f "$ES_TMP/emmett.sql" -f "$BENCH/tables.sql"
}

# The hand-written tables get our events: the same names, versions and bodies.
fill_tables() {
    local columns='stream, version, event_type, data, metadata'
    sql event_store -c "COPY (SELECT $columns FROM event_store.events
                            WHERE stream LIKE 'account-%' ORDER BY position) TO STDOUT" |
        sql peers -c "COPY classic ($columns) FROM STDIN"
    sql peers -c 'INSERT INTO copied (stream, version, event_type, data, metadata)
        SELECT substr(stream, 9)::bigint, version, event_type, data, metadata FROM classic'
}

driver() {
    "$ES_TMP/driver" -d "host=$PGHOST port=$PGPORT" "$@"
}

# fill VARIANT BATCH [VARIANT]: of what the second writes there is one event in a hundred, all over the log.
fill() {
    local i
    for i in {1..10}; do
        driver -v "$1" -b "$2" -n $((EVENTS / 10)) -S "$STREAMS" -r "$i"
        [[ -z ${3:-} ]] || driver -v "$3" -b 10 -n $((EVENTS / 1000)) -S $((STREAMS / 100)) -r "$i"
    done
}

# Message DB and the hand-written INSERT find a stream's version with max(): from the end of the index, or by reading the
# stream, as the statistics of the moment suggest. They get the good plan, or the comparison is not fair.
check_plan() {
    local plan query
    # shellcheck disable=SC2016 # $1 is the statement's
    for query in 'message_store SELECT max(position) FROM messages WHERE stream_name = $1' \
        'peers SELECT max(version) FROM classic WHERE stream = $1'; do
        plan=$(sql "${query%% *}" -c 'SET plan_cache_mode = force_generic_plan' \
            -c "PREPARE q(text) AS ${query#* }" -c "EXPLAIN EXECUTE q('x')")
        [[ $plan == *Backward* ]] || es_fail "a peer would read whole streams: $plan"
    done
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
# later, as long as there are REPEATS and TRIES left, and the least disturbed is kept: chosen by the disturbance, not by
# the figure.
slice() {
    local disk=$1 variant=$2 clients=$3 batch=$4 round=$5 try=1 foreign least='' line best='' seed
    while :; do
        seed=$((round * 1000 + try))
        [[ $disk == native ]] || seed=$((seed + 500))
        line=$(driver -v "$variant" -c "$clients" -b "$batch" -t "$SLICE" -S "$STREAMS" -r "$seed" 2>>"$ES_LOG") || return 1
        foreign=${line##*\"foreign_percent\":}
        foreign=${foreign%\}}
        [[ -n $least && $least -le $foreign ]] || best=$line least=$foreign
        ((least > 30 && REPEATS > 0 && try < TRIES)) || break
        REPEATS=$((REPEATS - 1)) try=$((try + 1))
        sleep "$PAUSE"
    done
    printf '{"round":%d,"tries":%d,"disk":"%s",%s\n' "$round" "$try" "$disk" "${best#\{}"
}

# Autovacuum is off: it would fall into some slices and not into others, and its WAL with it.
vacuum() {
    local database
    for database in event_store message_store peers; do
        sql "$database" -c 'VACUUM ANALYZE'
    done
    check_plan
}

# run_rounds DISK
run_rounds() {
    local disk=$1 list round n=0 total variant clients batch redo
    list=$(grep "^$disk " <<<"$CELLS" | cut -d ' ' -f 2-)
    total=$(($(wc -l <<<"$list") * ROUNDS))
    redo=$(redo_location)
    for ((round = 1; round <= ROUNDS; round++)); do
        vacuum
        while read -r variant clients batch; do
            n=$((n + 1))
            [[ ! -t 1 ]] || printf '\r\e[Kmeasuring, %s disk, %d of %d: %s, clients %d, batch %d' \
                "$disk" "$n" "$total" "$variant" "$clients" "$batch"
            slice "$disk" "$variant" "$clients" "$batch" "$round" >>"$ES_TMP/slices.jsonl" ||
                es_fail "$variant with $clients clients and batches of $batch failed"
        done < <(shuffled "$list")
    done
    [[ ! -t 1 ]] || printf '\r\e[K'
    [[ $(redo_location) == "$redo" ]] || es_fail 'a checkpoint ran in between: full-page images are in the figures'
}

# bytes_per_event DATABASE EVENTS TABLES: on disk, heap and indexes, of the tables that match a LIKE pattern.
bytes_per_event() {
    sql "$1" -c "SELECT round(sum(pg_total_relation_size(c.oid)) / (SELECT count(*) FROM $2), 1)
                 FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace::regnamespace || '.' || c.relname LIKE '$3'"
}

# One "name<TAB>value" a line, for report.mjs.
facts() {
    printf '%s\t%s\n' \
        date "$(date -u +%Y-%m-%d)" \
        event_store "$(sql event_store -c "SELECT extversion FROM pg_extension WHERE extname = 'event_store'") ($(measured_commit))" \
        postgresql "$(sql postgres -c 'SHOW server_version')" \
        message_db "${MESSAGE_DB##*@}" emmett "${EMMETT##*@}" quick "${QUICK:+yes}" \
        cpu "$(machine)" \
        memory "$(awk '/^MemTotal/ {printf "%.0f GB", $2 / 1048576}' /proc/meminfo), shared_buffers $BUFFERS_MB MB" \
        kernel "$(uname -sr)" \
        rounds "$ROUNDS" slice "$SLICE" events "$EVENTS" streams "$STREAMS" \
        disk_event_store "$DISK_EVENT_STORE" disk_message_db "$DISK_MESSAGE_DB" \
        disk_emmett "$DISK_EMMETT" disk_classic "$DISK_CLASSIC"
}

# After the rounds of the ordinary disk: filled in the same way.
measure_disk() {
    DISK_EVENT_STORE=$(bytes_per_event event_store event_store.events 'event_store.%')
    DISK_MESSAGE_DB=$(bytes_per_event message_store message_store.messages 'message_store.%')
    DISK_EMMETT=$(bytes_per_event peers emt_messages 'public.emt%')
    DISK_CLASSIC=$(bytes_per_event peers classic public.classic)
}

report() {
    mkdir -p "$BENCH/results"
    facts >"$ES_TMP/facts.tsv"
    node "$BENCH/report.mjs" "$ES_TMP/facts.tsv" "$ES_TMP/slices.jsonl" >"$ES_TMP/report.md"
    cp "$ES_TMP/report.md" "$RESULT.md"
    cp "$ES_TMP/slices.jsonl" "$RESULT.jsonl"
    node "$BENCH/plot.mjs" "$ES_TMP/slices.jsonl" "$RESULT"
    cat "$RESULT.md"
    echo
    echo "written to ${RESULT#"$ES_TOP/"}.md, the single slices to ${RESULT#"$ES_TOP/"}.jsonl"
}

CELLS=$(cells | grep -E -- "${ONLY:-}") || { echo "no cell matches $ONLY" >&2; exit 1; }
es_begin bench
es_need ''
need_npm
es_build all
es_step 'building the driver' build_driver_and_shim
start_server
es_step 'ageing the server' age_server
es_step 'installing event_store' install_event_store
es_step 'fetching the peers' install_packages
es_step 'installing Message DB' install_message_db
es_step 'installing Emmett and tables' install_peers
es_step "filling event_store with $EVENTS events" fill es-batch 1000 es-fill-rare
es_step 'filling the tables with the same' fill_tables
es_step "filling Message DB with $EVENTS events" fill mdb-unnest-scattered 1000 mdb-fill-rare
es_step "filling Emmett with $EVENTS events" fill emmett 10
: >"$ES_TMP/slices.jsonl"
[[ $CELLS != *native* ]] || run_rounds native
measure_disk
if [[ $CELLS == *slow* ]]; then
    es_step 'making the disk slow' slow_server
    run_rounds slow
fi
report
