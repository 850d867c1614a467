#!/usr/bin/env bash
# "make check": sets up everything, runs the tests against a private server, tidies up.
#
#   regress     test/sql/*.sql            pg_regress, outputs in expected/
#   isolation   test/isolation/specs/     pg_isolation_regress
#   tap         test/t/*.pl               prove, with servers of their own
#
# ES_TAP_PART=N/M runs only the Nth of M parts of the TAP tests, and those that are marked "On every version" at their top.
# ONLY=regress,tap runs some of the suites, TESTS='a b' some tests of them; ES_LONG=1 (make check-long)
# tells the tests that take as long as they are given to take minutes; KEEP=1 leaves the results; ES_TAP_JOBS
# TAP tests run at a time (2). ES_COVERAGE, ES_UBSAN, ES_ASAN, ES_VALGRIND: see README.md.
# See lib.sh for the choice of a PostgreSQL. The last line is "N passed, N failed".
set -euo pipefail
# shellcheck source=test/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

passed=0 failed=0
failures=()

# Of a long output often only the end is kept.
summary() {
    if ((failed > 0)) && ((${#failures[@]} > 0)); then
        if [[ -s ${ES_TMP:-}/failures ]]; then
            head -n 60 "$ES_TMP/failures"
        fi
        echo "failed: ${failures[*]}"
    fi
    echo "$passed passed, $failed failed"
}

setup_failed() {
    failed=$((failed + 1))
    summary
}

# report SUITE TEST ok|FAILED [REMARK]
report() {
    local colour=$ES_GREEN
    if [[ $3 == ok ]]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures+=("$1/$2")
        colour=$ES_RED
    fi
    printf '%-10s %-36s %s%-6s%s %s\n' "$1" "$2" "$colour" "$3" "$ES_PLAIN" "${4:-}"
}

# show TITLE FILE LINES: what a developer needs to see when the machine is gone.
show() {
    [[ -s $2 ]] || return 0
    echo "---- $1 ----"
    head -n "$3" "$2"
    if (($(wc -l <"$2") > $3)); then
        echo "(and more: KEEP=1 keeps all of it)"
    fi
    echo "---- end ----"
}

wanted() { [[ ,${ONLY// /,}, == *,$1,* ]]; }

# names DIRECTORY SUFFIX: the tests of a suite, sorted, thinned out by TESTS.
names() {
    local f n
    for f in "$ES_SRC/$1"/*"$2"; do
        [[ -e $f ]] || continue
        n=$(basename "$f" "$2")
        [[ -z ${TESTS:-} || " $TESTS " == *" $n "* ]] || continue
        echo "$n"
    done
}

# part NAME...: of the TAP tests those of ES_TAP_PART.
part() {
    local i=0 name n=${ES_TAP_PART%/*} m=${ES_TAP_PART#*/}
    for name in "$@"; do
        if head -n 20 "$ES_SRC/test/t/$name.pl" | grep -q '^# On every version'; then
            echo "$name"
        elif ((i++ % m == n - 1)); then
            echo "$name"
        fi
    done
}

# expect_something DIRECTORY TEST...: without an expected output pg_regress gives up at once, and none
# of the tests after it runs. With an empty one, the difference shown is the output.
expect_something() {
    local dir=$ES_SRC/$1 name
    shift
    as_user mkdir -p "$dir"
    for name in "$@"; do
        [[ -e $dir/$name.out ]] || as_user touch "$dir/$name.out"
    done
}

# pg_regress and pg_isolation_regress, through installcheck so that their options stand in the
# Makefile only. Every test of the list gets a line, also when pg_regress never came to it.
run_pg_regress() {
    local suite=$1 variable=$2 other=$3 diffs=$4 log=$ES_TMP/$1.log line name state
    shift 4
    local -A seen=()
    while IFS= read -r line; do
        echo "$line" >>"$log"
        if [[ $line =~ ^(not\ )?ok\ +[0-9]+\ +[-+]\ +([^\ ]+)\ +([0-9]+\ ms) ]]; then    # PostgreSQL 16 and later
            state=${BASH_REMATCH[1]:+FAILED} name=${BASH_REMATCH[2]}
        elif [[ $line =~ ^(test)?\ +([^\ ]+)\ +\.\.\.\ (ok|FAILED|failed)\ .*\ ([0-9]+\ ms) ]]; then
            state=${BASH_REMATCH[3]#ok} name=${BASH_REMATCH[2]}
        else
            continue
        fi
        seen[$name]=1
        if [[ -z $state ]]; then
            report "$suite" "$name" ok "${BASH_REMATCH[-1]}"
        else
            report "$suite" "$name" FAILED
        fi
    done < <(as_user_within "$limit" env PATH="$ES_BIN:$PATH" "${ES_MAKE[@]}" installcheck "$variable=$*" "$other=" 2>&1)
    for name in "$@"; do
        if [[ -z ${seen[$name]:-} ]]; then
            report "$suite" "$name" FAILED 'no result'
            seen[not_run]=1
        fi
    done
    show "$suite: differences" "$ES_SRC/$diffs" 500
    if [[ -n ${seen[not_run]:-} ]]; then
        show "$suite: what pg_regress said" "$log" 100
    fi
}

# One file, in a subshell: the answer is in $dir/rc and $dir/seconds.
one_tap() {
    local name=$1 dir=$2 start=$SECONDS rc=0
    # TESTDIR for PostgreSQL 15, the other two for later ones.
    as_user_within "$limit" env PATH="$ES_BIN:$PATH" PG_REGRESS="$ES_PGXS/src/test/regress/pg_regress" \
        TESTDIR="$dir" TESTDATADIR="$dir/tmp_check" TESTLOGDIR="$dir/tmp_check/log" TMPDIR="$ES_TMP" \
        ES_SRC="$ES_SRC" ES_TOP="$ES_TOP" ES_LONG="${ES_LONG:-}" ES_COVERAGE="${ES_COVERAGE:-}" ES_UBSAN="${ES_UBSAN:-}" \
        prove --verbose -I "$ES_PGXS/src/test/perl" -I "$ES_SRC/test" "$ES_SRC/test/t/$name.pl" >"$dir/output" 2>&1 || rc=$?
    if grep -rahE "$finding" "$dir/tmp_check/log" >>"$dir/output" 2>/dev/null; then rc=1; fi
    echo $((SECONDS - start)) >"$dir/seconds"
    echo "$rc" >"$dir/rc"
}

report_tap() {
    local name=$1 dir=$2 log=$2/output
    if [[ $(<"$dir/rc") == 0 ]]; then
        # prove is content with a file that skips all of it; its reason belongs on the line.
        report tap "$name" ok "$(<"$dir/seconds") s $(sed -n 's/^1\.\.0 # SKIP\|^.*\.pl \.* skipped:/skipped:/p' "$log")"
        [[ -n ${KEEP:-} ]] || rm -rf "$dir"
    else
        report tap "$name" FAILED "$(<"$dir/seconds") s"
        show "tap/$name" "$log" 300
        # What went wrong once more, and how it ended.
        {
            echo "tap/$name:"
            grep -A 8 '^#   Failed test' "$log" | cut -c 1-500 | head -n 30 || true
            grep -A 8 '^not ok' "$log" | cut -c 1-500 | head -n 20 || true
            tail -n 10 "$log"
        } >>"$ES_TMP/failures"
        while IFS= read -r log; do
            tail -n 60 "$log" >"$ES_TMP/tail"
            show "tap/$name: the end of ${log##*/}" "$ES_TMP/tail" 60
        done < <(find "$dir/tmp_check/log" -name '*.log' 2>/dev/null)
    fi
}

# Two at a time: they spend much of their time waiting.
run_tap() {
    local -a waiting=("$@") running=()
    local name dir rest
    while ((${#waiting[@]} + ${#running[@]} > 0)); do
        while ((${#waiting[@]} > 0 && ${#running[@]} < ES_TAP_JOBS)); do
            name=${waiting[0]} waiting=("${waiting[@]:1}") dir=$ES_TMP/tap/$name
            # The answer is written by us, the rest by the server's owner.
            as_user mkdir -p "$dir"
            rm -f "$dir/rc"
            one_tap "$name" "$dir" &
            running+=("$name")
        done
        # Returns when one of them has ended; a trap cuts it short.
        wait -n || true
        rest=()
        for name in "${running[@]}"; do
            if [[ -e $ES_TMP/tap/$name/rc ]]; then
                report_tap "$name" "$ES_TMP/tap/$name"
            else
                rest+=("$name")
            fi
        done
        running=("${rest[@]}")
    done
}

# A crash or a leak that no test looked for is a failure of its own.
check_server_log() {
    if grep -E 'was terminated by signal|PANIC:|TRAP:|WARNING: .*(leak|not closed|left non-empty|problem in alloc set|write past chunk end)|'"$finding" \
        "$ES_SERVER_LOG" >"$ES_TMP/bad"; then
        report server log FAILED
        show 'server log' "$ES_TMP/bad" 50
        tail -n 60 "$ES_SERVER_LOG" >"$ES_TMP/tail"
        show 'the end of the server log' "$ES_TMP/tail" 60
    fi
}

# Has what starts a server start it by a command of ours: initdb and pg_ctl -V get the program itself. It goes by the name
# of the wrapper, for "pg_ctl restart" starts what the server says that it is. (Valgrind puts the program's name there.)
wrap_postgres() {
    mv "$ES_BIN/postgres" "$ES_BIN/postgres.bin"
    cat >"$ES_BIN/postgres" <<EOF
#!/bin/bash
[ "\$1" = -D ] || exec "$ES_BIN/postgres.bin" "\$@"
exec $* bash -c 'exec -a "\$0" "\$@"' "$ES_BIN/postgres" "$ES_BIN/postgres.bin" "\$@"
EOF
    chmod 755 "$ES_BIN/postgres"
}

# A file for each process; one that only complains of what is suppressed is empty.
under_valgrind() {
    mkdir "$ES_TMP/valgrind"
    chmod 1777 "$ES_TMP/valgrind"
    cp "$ES_VALGRIND" "$ES_TMP/valgrind.supp" || es_fail "ES_VALGRIND=$ES_VALGRIND: there is no such file"
    wrap_postgres valgrind --quiet --leak-check=no --gen-suppressions=all --time-stamp=yes --trace-children=yes \
        --error-markers=VALGRINDERROR-BEGIN,VALGRINDERROR-END --num-callers=30 \
        "--suppressions=$ES_TMP/valgrind.supp" "--log-file=$ES_TMP/valgrind/%p.log"
}

check_valgrind() {
    [[ -n ${ES_VALGRIND:-} ]] || return 0
    find "$ES_TMP/valgrind" -name '*.log' -size +0 -exec cat {} + >"$ES_TMP/bad"
    if grep -q VALGRINDERROR-BEGIN "$ES_TMP/bad"; then
        report server valgrind FAILED "$(grep -c VALGRINDERROR-BEGIN "$ES_TMP/bad") errors"
        show valgrind "$ES_TMP/bad" 300
    else
        report server valgrind ok "$(find "$ES_TMP/valgrind" -name '*.log' | wc -l) processes"
    fi
}

# What gcov has counted: processes that end by themselves write it beside the object files. Files by their share of
# lines that were run, and all of them.
show_coverage() {
    [[ -n ${ES_COVERAGE:-} ]] || return 0
    [[ -z ${ES_DATA:-} ]] || as_user "$ES_BIN/pg_ctl" -D "$ES_DATA" -m fast -w stop >>"$ES_LOG" 2>&1 || true
    echo '---- coverage: % of lines, lines, file ----'
    (cd "$ES_SRC" && find src -name "*.gcda" -exec gcov -n {} + 2>/dev/null) |
        awk -F "[':% ]" '/^File/ {file = $3} /^Lines executed/ && file ~ /^src\/.*\.c$/ {
                percent = $3; lines = $NF; hit += percent * lines / 100; all += lines; printf "%6.1f %5d %s\n", percent, lines, file; file = ""}
            END {if (all) printf "%6.1f %5d src/, all lines\n", hit * 100 / all, all}' | sort -g
}

ONLY=${ONLY:-regress,isolation,tap}
ES_TAP_JOBS=${ES_TAP_JOBS:-2}
ES_ON_FAIL=setup_failed
es_begin 'make check'
for suite in ${ONLY//,/ }; do
    [[ $suite =~ ^(regress|isolation|tap)$ ]] || es_fail "ONLY=$ONLY: the suites are regress, isolation, tap"
done

if wanted tap; then es_need tap; else es_need; fi
# Instrumented: for gcov, or so that what is undefined or out of bounds is a line in the server's log.
instruments=()
# Of a test of make check-long nine minutes are what it is given; all of it takes longer, above all on a busy machine.
limit=900 finding='runtime error:|AddressSanitizer'
[[ -z ${ES_LONG:-} ]] || limit=3600
if [[ -n ${ES_COVERAGE:-} ]]; then
    instruments=('ES_CFLAGS=--coverage -fprofile-update=atomic' SHLIB_LINK=--coverage)
elif [[ -n ${ES_UBSAN:-} ]]; then
    instruments=(ES_CFLAGS=-fsanitize=undefined SHLIB_LINK=-lubsan)
elif [[ -n ${ES_ASAN:-} ]]; then
    instruments=(ES_CFLAGS=-fsanitize=address SHLIB_LINK=-lasan)
fi
es_build "${instruments[@]}"
if [[ -n ${ES_ASAN:-} ]]; then
    # Its part must be there before the library is loaded. A backend that ends with 1 is no crash to the postmaster.
    wrap_postgres env "LD_PRELOAD=$(gcc -print-file-name=libasan.so)" \
        ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:detect_stack_use_after_return=0
    export PGCTLTIMEOUT=600
elif [[ -n ${ES_VALGRIND:-} ]]; then
    under_valgrind
    limit=14400
    export PGCTLTIMEOUT=600 PG_TEST_TIMEOUT_DEFAULT="${PG_TEST_TIMEOUT_DEFAULT:-3600}"
fi
mapfile -t regress < <(names test/sql .sql)
mapfile -t isolation < <(names test/isolation/specs .spec)
mapfile -t tap < <(names test/t .pl)
if [[ -n ${ES_TAP_PART:-} ]]; then
    [[ $ES_TAP_PART =~ ^[1-9]/[1-9]$ ]] || es_fail "ES_TAP_PART=$ES_TAP_PART: it is a number of a part and how many there are, as 1/3"
    mapfile -t tap < <(part "${tap[@]}")
fi

if wanted regress || wanted isolation; then
    # shellcheck disable=SC2119
    es_start_server
    if wanted regress && ((${#regress[@]} > 0)); then
        expect_something expected "${regress[@]}"
        run_pg_regress regress REGRESS ISOLATION regression.diffs "${regress[@]}"
    fi
    if wanted isolation && ((${#isolation[@]} > 0)); then
        expect_something test/isolation/expected "${isolation[@]}"
        run_pg_regress isolation ISOLATION REGRESS output_iso/regression.diffs "${isolation[@]}"
    fi
    check_server_log
fi
if wanted tap && ((${#tap[@]} > 0)); then
    cd "$ES_TMP"
    run_tap "${tap[@]}"
fi

show_coverage
check_valgrind
if ((passed + failed == 0)); then
    echo 'no test was run'
fi
summary
((failed == 0 && passed > 0))
