#!/bin/sh
# Compares the tests that were skipped with the list of those that may be.
#
#     packaging/check-skips.sh LOG EXPECTED
#
# Tests append one line for each skip to the file named by CLONETOOL_SKIP_LOG: `name: reason`. EXPECTED lists names,
# one a line; what follows a name, blank lines and lines that begin with # do not count. A difference in either
# direction fails the run under CI and for root, for whom no test should have to be skipped; otherwise it is shown.
set -eu

log=$1
expected=$2

names() {
    [ ! -f "$1" ] || sed -e 's/^[[:space:]]*//' -e '/^#/d' -e '/^$/d' -e 's/:[[:space:]].*//' -e 's/[[:space:]].*//' "$1" | LC_ALL=C sort -u
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
names "$log" >"$work/skipped"
names "$expected" >"$work/expected"

count=$(wc -l <"$work/skipped")
if cmp -s "$work/skipped" "$work/expected"; then
    echo "skips: $((count)) skipped, as expected"
    exit 0
fi
echo "skips: the set of skipped tests changed:"
LC_ALL=C comm -23 "$work/skipped" "$work/expected" | while read -r name; do
    reason=$(grep -F "$name" "$log" | head -n 1)
    echo "  skipped, but not expected to be: $reason"
done
LC_ALL=C comm -13 "$work/skipped" "$work/expected" | sed 's/^/  expected to be skipped, but was not: /'
if [ -n "${CI:-}" ] || [ "$(id -u)" = 0 ]; then
    echo "skips: make the tests run again, or change $expected in the same commit and say why" >&2
    exit 1
fi
echo "skips: not counted as a failure outside CI and without root"
