#!/usr/bin/env bash
# Benchmarks, from a checkout or a bundle made with --tests:
#   scripts/bench.sh gpu [--quick] [--output FILE.json]   checks, then times training on a GPU,
#                                                         beside PyTorch where python3 has it
#   scripts/bench.sh cpu                                  a step of ResNet-20 on the cores
# PYTHON names another python3.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
start=$root/lib/start.sh  # of a bundle

# Builds what a benchmark needs, where there is something to build from.
build() { [[ -e $start ]] || "$root/scripts/build.sh" "$@"; }
run() {
  if [[ -e $start ]]; then
    "$start" "$@"
  else
    "$root/build/$1" "${@:2}"
  fi
}

case ${1:-} in
  gpu)
    shift
    build stpt_starpu gpu_bench {runtime,codelets,models,data,stpt}_tests
    if [[ -e $start ]]; then
      where=(--start "$start")
    else
      where=(--programs "$root/build")
    fi
    exec "${PYTHON:-python3}" "$root/tests/bench/gpu_bench.py" "${where[@]}" "$@"
    ;;
  cpu)
    build step_bench
    run step_bench throughput resnet20 2 64 step
    run step_bench overhead resnet20 2 64 step
    ;;
  *)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [[ -z ${1:-} || $1 == -h || $1 == --help ]] || { echo "bench: unknown benchmark '$1'" >&2; exit 2; }
    ;;
esac
