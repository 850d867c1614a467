# shellcheck shell=bash disable=SC2034 # what is set here is used by the scripts that source this
# What check.sh and demo.sh share: find or install what is needed, build the extension and run a
# private PostgreSQL server that has it. Source this file, then call
#
#   es_begin NAME              the private directory $ES_TMP, removed again whatever happens
#   es_need [tap]              PostgreSQL and the tools; as root, missing ones are installed with apt
#   es_build [make argument]   builds in $ES_SRC, a copy of the checkout, and installs into $ES_ROOT
#   es_start_server            initdb and start; PGHOST, PGPORT and PGUSER point to it
#   as_user COMMAND            runs as the server's owner, who is never root
#   as_user_within SECONDS COMMAND   the same with a time limit; ends when this script ends
#
# The server is a private copy of PostgreSQL's programs with the extension installed beside them
# (PostgreSQL finds its files relative to its own program, which is also how its own "make check"
# works). So nothing is written to the PostgreSQL of this machine, two runs at a time do not meet,
# and without root it is enough that the packages are there.
#
# Functions return their own status ("|| return"): errexit does not reach into a function that an "if"
# or "||" calls.
#
# Environment: PG_CONFIG chooses a PostgreSQL installation, PG_MAJOR a version of Debian's packages;
# KEEP=1 leaves $ES_TMP behind. What is noisy goes to $ES_LOG, which es_fail shows.

ES_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ES_MAJORS='15 16 17 18 19'
ES_ON_FAIL=

# Colours only for people.
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    ES_BOLD=$'\e[1m' ES_DIM=$'\e[2m' ES_RED=$'\e[31m' ES_GREEN=$'\e[32m' ES_BLUE=$'\e[36m' ES_PLAIN=$'\e[0m'
else
    ES_BOLD='' ES_DIM='' ES_RED='' ES_GREEN='' ES_BLUE='' ES_PLAIN=''
fi

# ------------------------------------------------------------------ begin and end

es_begin() {
    ES_NAME=$1
    # A server of the caller's must not be reached by accident, nor may a sub-make inherit our flags.
    local v
    for v in "${!PG@}"; do
        case $v in PG_CONFIG | PG_MAJOR | PG_TEST_*) ;; *) unset "$v" ;; esac
    done
    unset MAKEFLAGS MFLAGS MAKELEVEL
    export LC_ALL=C.UTF-8
    umask 022

    # A Unix socket's path may have 107 bytes.
    local base=${TMPDIR:-/tmp}
    ((${#base} < 60)) || base=/tmp
    ES_TMP=$(mktemp -d "$base/event_store.XXXXXX")
    ES_LOG=$ES_TMP/setup.log
    ES_RUBBISH=()    # what else must be gone at the end
    : >"$ES_LOG"
    trap es_end EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

es_end() {
    local rc=$? pidfile pid
    set +e
    trap - EXIT
    trap '' INT TERM HUP
    rm -rf "${ES_RUBBISH[@]}"
    es_kill_running
    # Ours, and those of TAP tests that did not live to stop theirs.
    while IFS= read -r pidfile; do
        read -r pid <"$pidfile" || continue
        # A server that crashed leaves its file behind, and the number may be somebody else's by now.
        [[ $(readlink "/proc/$pid/cwd") == "${pidfile%/*}" ]] || continue
        kill -QUIT "$pid" 2>/dev/null || continue
        for _ in {1..50}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done < <(find "$ES_TMP" -name postmaster.pid 2>/dev/null)
    if [[ -n ${KEEP:-} ]]; then
        echo "kept: $ES_TMP"
    else
        rm -rf "$ES_TMP"
    fi
    exit "$rc"
}

# es_fail MESSAGE: shows the end of the log, says what went wrong, ends the script.
es_fail() {
    if [[ -s $ES_LOG ]]; then
        # A compiler's first complaint is the one that counts, and the end may be far from it.
        grep -m 10 -E '(error|warning):' "$ES_LOG" || true
        echo "---- the last lines of the log ----"
        tail -n 60 "$ES_LOG"
        echo "-----------------------------------"
    fi
    printf '%s%s: %s%s\n' "$ES_RED" "$ES_NAME" "$1" "$ES_PLAIN"
    [[ -z $ES_ON_FAIL ]] || "$ES_ON_FAIL"
    exit 1
}

# es_step TEXT COMMAND...: one line on the terminal, the output into the log.
es_step() {
    local text=$1 start=$SECONDS
    shift
    printf '%s ... ' "$text"
    echo "== $text: $*" >>"$ES_LOG"
    if "$@" >>"$ES_LOG" 2>&1 </dev/null; then
        printf 'ok (%d s)\n' $((SECONDS - start))
    else
        printf 'failed\n'
        es_fail "$text: failed"
    fi
}

is_root() { [[ $(id -u) -eq 0 ]]; }

# PostgreSQL refuses to run as root.
as_user() {
    if is_root; then
        setpriv --reuid="$ES_USER" --regid="$(id -g "$ES_USER")" --init-groups env HOME="$ES_TMP" "$@"
    else
        "$@"
    fi
}

# timeout(1) makes a process group of its own, which Ctrl-C does not reach: es_end does. And a trap
# cuts short the wait for a job, but not a command in the foreground. (Jobs ignore SIGINT unless told.)
# Several may run at a time, each in a subshell of its own.
as_user_within() {
    local rc=0 running=$ES_TMP/running.$BASHPID
    # shellcheck disable=SC2016 # for the inner shell
    as_user env --default-signal=INT,QUIT \
        sh -c 'echo $$ >"$0" && exec timeout -k 10 "$@"' "$running" "$@" &
    wait $! || rc=$?
    rm -f "$running"
    return "$rc"
}

es_kill_running() {
    local pid file
    for file in "$ES_TMP"/running.*; do
        if read -r pid 2>/dev/null <"$file"; then
            kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true
        fi
    done
}

# ------------------------------------------------------------------ what is needed

# Whether this pg_config belongs to a whole server with headers, of a version we support.
es_usable() {
    local bin version
    bin=$("$1" --bindir 2>/dev/null) || return 1
    version=$("$1" --version) || return 1
    version=${version#PostgreSQL }
    version=${version%%[!0-9]*}
    [[ " $ES_MAJORS " == *" $version "* ]] || return 1
    [[ -z ${PG_MAJOR:-} || $PG_MAJOR == "$version" ]] || return 1
    [[ -x $bin/postgres && -x $bin/initdb && -x $bin/psql ]] || return 1
    [[ -f $("$1" --pgxs) && -f $("$1" --includedir-server)/postgres.h && -f $("$1" --includedir)/libpq-fe.h ]]
}

# Sets ES_PG_CONFIG, or returns 1. The choice is PG_CONFIG, or the first usable one.
es_find_pg_config() {
    local c
    ES_PG_CONFIG=
    for c in ${PG_CONFIG:-pg_config /usr/lib/postgresql/*/bin/pg_config}; do
        c=$(command -v "$c") || continue
        if es_usable "$c"; then
            # Debian's /usr/bin/pg_config is a wrapper; the program in the server's own directory is not.
            ES_PG_CONFIG=$("$c" --bindir)/pg_config
            [[ -x $ES_PG_CONFIG ]] || ES_PG_CONFIG=$c
            return 0
        fi
    done
    return 1
}

# The major version to install: the one asked for, one that is partly there, or the oldest that apt has.
es_major_to_install() {
    local v
    if [[ ${PG_CONFIG:-} =~ /usr/lib/postgresql/([0-9]+)/ ]]; then
        echo "${BASH_REMATCH[1]}"
    elif [[ -n ${PG_MAJOR:-} ]]; then
        echo "$PG_MAJOR"
    else
        for v in $ES_MAJORS; do
            if [[ -x /usr/lib/postgresql/$v/bin/postgres ]]; then
                echo "$v"
                return
            fi
        done
        for v in $ES_MAJORS; do
            if apt-cache show "postgresql-server-dev-$v" >/dev/null 2>&1; then
                echo "$v"
                return
            fi
        done
        echo 15
    fi
}

# Prints the packages that are missing. Looks for files, not packages: a server built from source will do.
es_missing() {
    local v tap=${1:-}
    if ! es_find_pg_config; then
        v=$(es_major_to_install)
        echo "postgresql-$v postgresql-server-dev-$v libpq-dev"
    fi
    command -v gcc >/dev/null || echo gcc
    [[ -f /usr/include/stdio.h ]] || echo libc6-dev
    command -v make >/dev/null || echo make
    command -v gzip >/dev/null || echo gzip
    command -v setpriv >/dev/null || echo util-linux
    if [[ $tap == tap ]]; then
        { command -v prove && perl -MTest::More -e 1; } >/dev/null 2>&1 || echo perl
        perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
        command -v patch >/dev/null || echo patch
    fi
}

es_apt() {
    # Debian's server package makes and starts a cluster unless told not to. This file is gone again
    # afterwards: what somebody installs later behaves as always.
    local rc=0 conf=/etc/postgresql-common/createcluster.d/event_store.conf
    ES_RUBBISH+=("$conf")
    mkdir -p "${conf%/*}" && echo 'create_main_cluster = false' >"$conf" || return
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends install "$@" || rc=$?
    rm -f "$conf"
    return "$rc"
}

es_need() {
    local missing
    if [[ -n ${PG_CONFIG:-} ]] && ! es_find_pg_config && [[ ! $PG_CONFIG =~ /usr/lib/postgresql/[0-9]+/ ]]; then
        es_fail "PG_CONFIG=$PG_CONFIG is not of a PostgreSQL server (15 to 19) with its headers"
    fi
    missing=$(es_missing "$@" | xargs)
    if [[ -n $missing ]]; then
        if ! command -v apt-get >/dev/null; then
            es_fail "missing, by their Debian names: $missing"
        elif ! is_root; then
            echo "This needs packages that are not installed, and only root may install them:"
            echo "    apt-get install $missing"
            echo "Run that as root and then this again as yourself, or run all of this as root."
            es_fail "packages are missing"
        fi
        es_step "reading the package lists" apt-get -o DPkg::Lock::Timeout=300 -q update
        missing=$(es_missing "$@" | xargs)    # again: now apt knows which versions there are
        # shellcheck disable=SC2086 # a list of words
        es_step "installing $missing" es_apt $missing
        missing=$(es_missing "$@" | xargs)
        [[ -z $missing ]] || es_fail "still missing after installing: $missing"
    fi
    es_find_pg_config
    ES_VERSION=$("$ES_PG_CONFIG" --version)
    ES_PGXS=$("$ES_PG_CONFIG" --pgxs)
    ES_PGXS=${ES_PGXS%/src/makefiles/pgxs.mk}

    if is_root; then
        ES_USER=postgres
        id "$ES_USER" >/dev/null 2>&1 || ES_USER=nobody
    else
        ES_USER=$(id -un)
    fi
}

# ------------------------------------------------------------------ build

# es_copy_tree DIRECTORY: the checkout without build products, which may be of another PostgreSQL.
# From git where there is git (uncommitted files included), else all but what a build makes.
es_copy_tree() {
    local f list
    mkdir -p "$1" || return
    if list=$(git -c safe.directory='*' -C "$ES_TOP" ls-files --cached --others --exclude-standard 2>/dev/null) && [[ -n $list ]]; then
        git -c safe.directory='*' -C "$ES_TOP" ls-files -z --cached --others --exclude-standard |
            while IFS= read -r -d '' f; do
                [[ ! -e $ES_TOP/$f ]] || printf '%s\0' "$f"    # deleted, not yet committed
            done | tar -C "$ES_TOP" --null --no-recursion -T - -cf - | tar -C "$1" --no-same-owner -xf -
    else
        tar -C "$ES_TOP" --exclude-vcs --exclude='*.o' --exclude='*.so' --exclude='*.bc' --exclude=node_modules \
            --exclude=tmp_check --exclude=results --exclude='./sql/event_store--0.2.0.sql' -cf - . |
            tar -C "$1" --no-same-owner -xf -
    fi
}

# The server's programs must be real copies, since they look for everything else from where they
# are; libraries and shared files may be links.
es_copy_postgres() {
    local bin lib share
    bin=$("$ES_PG_CONFIG" --bindir) lib=$("$ES_PG_CONFIG" --pkglibdir) share=$("$ES_PG_CONFIG" --sharedir)
    ES_ROOT=$ES_TMP/root
    ES_BIN=$ES_ROOT$bin
    mkdir -p "$ES_BIN" "$ES_ROOT$lib" "$ES_ROOT$share" || return
    cp -R "$bin/." "$ES_BIN/" || return
    cp -Rs "$lib/." "$ES_ROOT$lib/" || return
    cp -Rs "$share/." "$ES_ROOT$share/" || return
    # An event_store that this machine has must not show through.
    rm -rf "$ES_ROOT$lib"/event_store.so "$ES_ROOT$lib"/bitcode/event_store* "$ES_ROOT$share"/extension/event_store*
}

es_make() {
    local clang
    ES_MAKE=(make -C "$ES_SRC" --no-print-directory PG_CONFIG="$ES_PG_CONFIG")
    # Debian's server has LLVM; bitcode for it needs the very clang it was built with.
    clang=$(sed -n 's/^CLANG *= *//p' "$ES_PGXS/src/Makefile.global")
    [[ -n $clang && -x $(command -v "$clang") ]] || ES_MAKE+=(with_llvm=no)
    "${ES_MAKE[@]}" -j"$(nproc)" "$@" || return
    "${ES_MAKE[@]}" "$@" install DESTDIR="$ES_ROOT" || return
    if is_root; then
        chown -R "$ES_USER": "$ES_TMP"
    fi
}

es_build() {
    local start
    ES_SRC=$ES_TMP/src
    { es_copy_tree "$ES_SRC" && es_copy_postgres; } >>"$ES_LOG" 2>&1 ||
        es_fail "cannot copy the checkout or PostgreSQL to $ES_TMP"
    start=$(wc -l <"$ES_LOG")
    es_step "building with ${ES_VERSION%% (*}" es_make "$@"
    if tail -n +"$((start + 1))" "$ES_LOG" | grep -E 'warning:' >"$ES_TMP/warnings"; then
        cat "$ES_TMP/warnings"
        es_fail "the build has warnings"
    fi
}

# ------------------------------------------------------------------ server

# es_start_server [LINE...]: lines for postgresql.conf beside ours.
es_start_server() {
    export PGHOST=$ES_TMP PGPORT=5432 PGUSER=postgres
    ES_DATA=$ES_TMP/data ES_SERVER_LOG=$ES_TMP/server.log
    cd "$ES_TMP" || return    # the caller's directory may be closed to the server's owner
    as_user "$ES_BIN/initdb" -D "$ES_DATA" -U postgres -A trust -E UTF8 --locale=C --no-sync >>"$ES_LOG" 2>&1 ||
        es_fail "initdb failed"
    # Nobody else gets to it: no TCP, and the socket is in a directory that only its owner may enter.
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$ES_TMP'" 'port = 5432' 'fsync = off' \
        'max_prepared_transactions = 30' 'max_connections = 100' "$@" |
        as_user tee -a "$ES_DATA/postgresql.conf" >/dev/null
    as_user "$ES_BIN/pg_ctl" -D "$ES_DATA" -l "$ES_SERVER_LOG" -w start >>"$ES_LOG" 2>&1 || {
        cat "$ES_SERVER_LOG" >>"$ES_LOG"
        es_fail "the server does not start"
    }
}
