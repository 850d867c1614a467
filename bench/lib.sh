# shellcheck shell=bash
# What the benchmarks have in common. To be sourced; test/lib.sh comes with it.

# The disk is what is measured; /tmp is often memory.
export TMPDIR=${TMPDIR:-/var/tmp}
# shellcheck source=test/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"
BENCH=$ES_TOP/bench

# The peers, as npm packages.
MESSAGE_DB='@eventide/message-db@1.3.1'
EMMETT='@event-driven-io/emmett-postgresql@0.42.0'

need_npm() {
    command -v npm >/dev/null && return
    if is_root && command -v apt-get >/dev/null; then
        es_step 'installing nodejs and npm' es_apt nodejs npm
    else
        es_fail 'npm is missing: the peers are npm packages, and node makes the report'
    fi
}

install_packages() {
    mkdir -p "$ES_TMP/npm"
    npm install --prefix "$ES_TMP/npm" --no-audit --no-fund --no-package-lock "$MESSAGE_DB" "$EMMETT"
}

# build_client NAME SOURCE...: a client on libpq, as $ES_TMP/NAME
build_client() {
    local name=$1
    shift
    gcc -std=gnu11 -O2 -Wall -Wextra -Werror -I"$("$ES_PG_CONFIG" --includedir)" -o "$ES_TMP/$name" "$@" \
        -L"$("$ES_PG_CONFIG" --libdir)" -lpq -lpthread
}

build_driver() { build_client driver "$BENCH"/*.c; }

git_in_tree() { git -c safe.directory='*' -C "$ES_TOP" "$@" 2>/dev/null; }

# The commit that is measured, and whether it is changed.
measured_commit() {
    local commit
    commit=$(git_in_tree rev-parse --short HEAD || echo unknown)
    [[ -z $(git_in_tree status --porcelain -- src sql Makefile) ]] || commit+=' with changes'
    echo "$commit"
}

machine() { echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores"; }
load_average() { cut -d ' ' -f 1 /proc/loadavg; }

# publish NAME: writes results/NAME.md by report() and shows it. Not in place: one that fails leaves the last one.
publish() {
    mkdir -p "$BENCH/results"
    report >"$ES_TMP/$1.md"
    cp "$ES_TMP/$1.md" "$BENCH/results/$1.md"
    cat "$BENCH/results/$1.md"
}
