#!/usr/bin/env bash
# Installs what is missing, builds, trains:
#   scripts/run.sh [config] [more options of stpt_starpu]
# The config is configs/quickstart.json unless named.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
config=$root/configs/quickstart.json
if (( $# )) && [[ $1 != -* ]]; then
  config=$1
  shift
fi
"$root/scripts/build.sh" stpt_starpu
exec "$root/stpt_starpu" --config "$config" "$@"
