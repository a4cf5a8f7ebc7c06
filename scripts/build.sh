#!/usr/bin/env bash
# Installs what is missing and builds:
#   scripts/build.sh [--sanitize] [targets]
# Without targets: ./stpt_starpu, the tests and the benchmarks. The objects are in build/, with
# --sanitize in build-sanitize/.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=build
options=()
if [[ ${1:-} == --sanitize ]]; then
  shift
  build=build-sanitize
  options=(-DSTPT_SANITIZE=ON -DSTPT_BUILD_BENCHMARKS=OFF)
fi
scripts/setup.sh
# Each time: for GPUs or not is what the StarPU is that setup.sh has just seen to.
cmake -S . -B "$build" -G Ninja -DSTPT_CUDA="${STPT_CUDA:-AUTO}" "${options[@]}" >&2
cmake --build "$build" ${1:+--target "$@"} >&2
