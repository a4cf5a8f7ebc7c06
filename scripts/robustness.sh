#!/usr/bin/env bash
# Makes README's table: a config from six initial learning rates, with STPT and with the LR fixed.
#   scripts/robustness.sh [config] [folder for the runs]
# Runs that have a summary are not repeated, so it can be stopped and started again.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
config=${1:-$root/configs/quickstart.json}
runs=${2:-$root/runs/robustness}
"$root/scripts/build.sh" stpt_starpu
mkdir -p "$runs"

# Prints the final test accuracy, training first where that has not been done.
accuracy() {
  local directory=$runs/$1-$2
  if [[ ! -e $directory/done ]]; then
    rm -rf "$directory"
    "$root/stpt_starpu" --config "$config" --output "$directory" \
      --set "training.learning_rate.initial=$2" --set "training.learning_rate.policy=$1" >&2 ||
      { echo "failed"; return; }
    touch "$directory/done"
  fi
  awk -F'[:,]' '/"test_top1"/ { printf "%.1f %%", 100 * $2 }' "$directory/summary.json"
}

echo "| initial LR | STPT | fixed LR |"
echo "|---|---|---|"
for rate in 0.001 0.01 0.03 0.1 0.3 1.0; do
  echo "| $rate | $(accuracy stpt "$rate") | $(accuracy fixed "$rate") |"
done
