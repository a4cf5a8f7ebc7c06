#!/usr/bin/env bash
# Installs what is missing, builds, trains:
#   scripts/run.sh [config] [options of stpt_starpu]
# The config is configs/quickstart.json unless named. Options are passed on, such as
# --set data.path=DIR; ./stpt_starpu --help lists them.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
config=$root/configs/quickstart.json
if (( $# )) && [[ $1 != -* ]]; then
  config=$1
  shift
fi
"$root/scripts/build.sh" stpt_starpu
exec "$root/stpt_starpu" --config "$config" "$@"
