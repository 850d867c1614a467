#!/usr/bin/env bash
# Static analysis: clang-tidy over src/ (checks in .clang-tidy), shellcheck over the scripts, and whether each of our
# SQLSTATEs is in README.md and shown by a test. About 3 minutes. Installs what is missing on Debian.
set -euo pipefail
# shellcheck source=test/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_tools() {
    local missing=()
    command -v clang-tidy >/dev/null || missing+=(clang-tidy)
    command -v shellcheck >/dev/null || missing+=(shellcheck)
    ((${#missing[@]} == 0)) || es_apt "${missing[@]}"
}

tidy() {
    local server
    server=$("$ES_PG_CONFIG" --includedir-server)
    cd "$ES_TOP" || return
    # clang-tidy wants its own arguments before the files, and the compiler's after them: so one file at a time.
    printf '%s\0' src/*.c src/*/*.c | xargs -0 -P "$(nproc)" -I{} clang-tidy --quiet {} -- -std=gnu11 -D_GNU_SOURCE -Isrc -I"$server" \
        -I"$server/../internal" -I/usr/include/postgresql/internal
}

check_scripts() { (cd "$ES_TOP" && shellcheck -x .ci/run bench/*.sh demo/*.sh test/*.sh); }

check_codes() {
    local code bad=0
    cd "$ES_TOP" || return
    while IFS= read -r code; do
        if ! grep -q "^| \`$code\` |" README.md; then
            echo "README.md: $code is not in the table of errors"
            bad=1
        fi
        if ! grep -qw "$code" expected/*.out; then
            echo "expected/: no test shows $code"
            bad=1
        fi
    done < <(sed -n "s/.*MAKE_SQLSTATE('\(.\)', '\(.\)', '\(.\)', '\(.\)', '\(.\)').*/\1\2\3\4\5/p" src/base/errors.h)
    ((bad == 0))
}

es_begin lint
es_need ''
es_step 'tools' need_tools
es_step 'shellcheck' check_scripts
es_step 'codes of errors' check_codes
es_step 'clang-tidy' tidy
echo 'clean'
