#!/usr/bin/env bash
# Installs what is missing, builds, runs the tests:
#   scripts/test.sh [--sanitize] [more options of ctest]
# --sanitize: with the address and undefined-behaviour sanitizers
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=build
sanitize=()
if [[ ${1:-} == --sanitize ]]; then
  shift
  build=build-sanitize
  sanitize=(--sanitize)
fi
scripts/build.sh "${sanitize[@]}"
# Two at a time: many of them wait, and each may use all cores.
ctest --test-dir "$build" --output-on-failure --parallel 2 "$@"
