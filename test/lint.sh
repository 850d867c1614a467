#!/usr/bin/env bash
# Static analysis: clang-tidy over src/ (checks in .clang-tidy), shellcheck over the scripts, whether each of our SQLSTATEs is
# in docs/reference.md and shown by a test, whether the known bugs for mutation tests apply, whether the SQL scripts fit the C
# code, and whether the links between the documents lead somewhere. About 3 minutes.
# Installs what is missing on Debian.
set -euo pipefail
# shellcheck source=test/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_tools() {
    local missing=()
    command -v clang-tidy >/dev/null || missing+=(clang-tidy)
    command -v shellcheck >/dev/null || missing+=(shellcheck)
    command -v patch >/dev/null || missing+=(patch)
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
        if ! grep -q "^| \`$code\` |" docs/reference.md; then
            echo "docs/reference.md: $code is not in the table of errors"
            bad=1
        fi
        if ! grep -qw "$code" expected/*.out; then
            echo "expected/: no test shows $code"
            bad=1
        fi
    done < <(sed -n "s/.*MAKE_SQLSTATE('\(.\)', '\(.\)', '\(.\)', '\(.\)', '\(.\)').*/\1\2\3\4\5/p" src/base/base.h)
    ((bad == 0))
}

# Each known bug for the mutation tests still applies to the source, a test builds it, and test/README.md says what it is.
check_mutants() {
    local patch name bad=0
    cd "$ES_TOP" || return
    for patch in test/mutants/*.patch; do
        name=$(basename "$patch" .patch)
        patch -p1 --dry-run --force --fuzz=0 --input="$patch" || bad=1
        if ! grep -q "^| \`$name\` |" test/README.md; then
            echo "test/README.md: $name is not in the table of mutants"
            bad=1
        fi
        if ! grep -q "'$name'" test/t/*.pl; then
            echo "test/t/: no test builds the mutant $name"
            bad=1
        fi
    done
    ((bad == 0))
}

# README.md is a page, not a book, and src/README.md a map. A relative link leads to a file, with an anchor to a heading in it.
# The names of anchors are those that GitHub gives to headings.
check_docs() {
    cd "$ES_TOP" || return
    if (($(wc -l <README.md) > 200)); then
        echo 'README.md: more than 200 lines'
        return 1
    fi
    if (($(wc -l <src/README.md) > 250)); then
        echo 'src/README.md: more than 250 lines'
        return 1
    fi
    # shellcheck disable=SC2016 # a program of perl
    perl -e '
        use strict;
        use warnings;

        my $bad = 0;
        my %anchors;

        sub page { open(my $f, "<:utf8", $_[0]) or die "$_[0]: $!\n"; local $/; my $text = <$f>; $text =~ s/^```.*?^```$//msg; return $text }
        sub anchors
        {
            my %seen;
            for my $heading (page($_[0]) =~ /^#+ +(.*?) *$/mg)
            {
                my $name = lc $heading;
                $name =~ s/\[([^]]*)\]\([^)]*\)/$1/g;
                $name =~ s/[^\w\- ]//g;
                $name =~ tr/ /-/;
                my $n = $seen{$name}++;
                $seen{"$name-$n"}++ if $n;
            }
            return \%seen;
        }

        for my $file (glob("*.md src/README.md test/README.md docs/*.md docs/*/*.md"))
        {
            my $text = page($file) =~ s/`[^`\n]*`//gr;
            my ($dir) = $file =~ m{^(.*/)?};
            while ($text =~ /\]\(([^)\s]+)\)/g)
            {
                my ($link, $anchor) = split /#/, $1, 2;
                next if $link =~ /^\w+:/;
                my $target = $link eq "" ? $file : ($dir // "") . $link;
                1 while $target =~ s{[^/]+/\.\./}{};
                if (!-e $target) { print "$file: there is no $target\n"; $bad = 1; next }
                next if !defined $anchor;
                $anchors{$target} //= anchors($target);
                if (!$anchors{$target}{$anchor}) { print "$file: $target has no heading #$anchor\n"; $bad = 1 }
            }
        }
        exit $bad;
    '
}

# What the map of the source and the pages about it name is there: files, functions and types of ours. The map has every file
# but the one that make writes.
check_map() {
    cd "$ES_TOP" || return
    # shellcheck disable=SC2016 # a program of perl
    perl -e '
        use strict;
        use warnings;

        my $bad = 0;

        sub text { open(my $f, "<:utf8", $_[0]) or die "$_[0]: $!\n"; local $/; return scalar <$f> }
        sub complain { print @_, "\n"; $bad = 1 }

        my %known;
        for my $file (glob("src/*.[ch] src/*/*.[ch] sql/*.sql sql/*/*.sql"))
        {
            $known{$_} = 1 for text($file) =~ /\w+/g;
        }
        for my $page ("src/README.md", glob("docs/internals/*.md"))
        {
            for my $name (text($page) =~ /`([^`\n]+)`/g)
            {
                if ($name =~ m{^[\w/]+\.[ch]$}) { complain("$page: there is no src/$name") if !-e "src/$name" }
                elsif ($name =~ /^(\w+)\(.*\)$/ || $name =~ /^((?:es|Es|ES)_?\w+)$/)
                {
                    complain("$page: nothing in src/ or sql/ is called $1") if !$known{$1};
                }
            }
        }
        my $map = text("src/README.md");
        for my $file (grep { $_ ne "src/base/script_texts.c" } glob("src/*/*.c")) { complain("src/README.md: $file is not in the map") if index($map, "`" . ($file =~ s{^src/}{}r) . "`") < 0 }
        exit $bad;
    '
}

es_begin lint
es_need ''
es_step 'tools' need_tools
es_step 'shellcheck' check_scripts
es_step 'codes of errors' check_codes
es_step 'mutants' check_mutants
es_step 'documents' check_docs
es_step 'map of the source' check_map
es_step 'order of wings' perl "$ES_TOP/test/wings.pl" "$ES_TOP"
es_step 'SQL scripts' perl "$ES_TOP/test/scripts.pl" "$ES_TOP"
es_step 'clang-tidy' tidy
echo 'clean'
