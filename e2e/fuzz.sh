#!/usr/bin/env bash
# Fuzzes every target of the module for a time beyond its seeds, two targets at once with one worker each. What is found
# of interest is kept in bin/, so that a fresh clone begins with the seeds and spends its time on what is new.
# It is kept as it is: making it small took most of the time of the large targets.
# usage: e2e/fuzz.sh 10s
#
# An interrupt ends the time, not -fuzztime: on a busy machine Go up to 1.26 now and then takes its own deadline for a
# failure (go.dev/issue/75804).
set -euo pipefail
cd "$(dirname "$0")/.."
export fuzztime=$1 bin=$PWD/bin corpus=$PWD/bin/fuzz/corpus
mkdir -p "$bin/fuzz"

targets() { # package and target, one a line
  local file
  grep -lr --include='*_test.go' '^func Fuzz' internal cmd | sort | while read -r file; do
    sed -n "s|^func \(Fuzz[A-Za-z0-9_]*\)(.*|$(dirname "$file") \1|p" "$file"
  done
}

one() {
  local program=$bin/fuzz/${1//\//-}.test
  cd "$1"
  # Only the coordinator is interrupted; it ends its worker. Whoever does not end by then hangs.
  timeout --foreground --preserve-status -s INT -k 2m "$fuzztime" "$program" -test.v=test2json -test.paniconexit0 -test.run '^$' -test.fuzz "^$2\$" \
    -test.parallel 1 -test.fuzzminimizetime 1x -test.fuzzcachedir "$corpus/$1" 2>&1 | go tool test2json -p "$1" | "$bin/tally" -v ${TALLY:+-into "$TALLY"} fuzz
}
export -f one

all=$(targets)
[ -n "$all" ] || { echo "no fuzz target found" >&2; exit 1; }
packages=$(cut -d ' ' -f 1 <<<"$all" | sort -u)
while read -r package; do
  go test -c -fuzz=Fuzz -o "$bin/fuzz/${package//\//-}.test" "./$package" </dev/null
done <<<"$packages"
xargs -P 2 -L 1 bash -o pipefail -c 'one "$@"' one <<<"$all"
