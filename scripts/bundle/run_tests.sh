#!/usr/bin/env bash
# Runs the tests of GPUs: run_tests.sh [options of Catch2]
set -uo pipefail
folder=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cd "$folder" || exit 1  # tests look for their files here
STARPU_HOME=$(mktemp -d "${TMPDIR:-/tmp}/stpt_tests.XXXXXX") || exit 1
export STARPU_HOME
trap 'rm -rf "$STARPU_HOME"' EXIT
status=0
for program in bin/*_tests; do
  echo "== ${program#bin/}"
  lib/start.sh "${program#bin/}" "[cuda]" "$@" || status=1
done
exit "$status"
