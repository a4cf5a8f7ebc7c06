#!/usr/bin/env bash
# Makes README's table: a config from six initial learning rates, with STPT and with the LR fixed.
#   scripts/robustness.sh [config] [folder for the runs]
# The folder's default is runs/robustness-<name of the config>. Runs that are complete are not
# repeated, so it can be stopped and started again.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
say() { printf 'robustness: %s\n' "$*" >&2; }
[[ $# -le 2 && ${1:-} != -* ]] || { say "usage: scripts/robustness.sh [config] [folder]"; exit 2; }
config=${1:-$root/configs/quickstart.json}
runs=${2:-$root/runs/robustness-$(basename "$config" .json)}
"$root/scripts/build.sh" stpt_starpu

settings() { "$root/stpt_starpu" "$@" --print-config; }
wanted=$(settings --config "$config")
mkdir -p "$runs"
exec 9>"$runs/lock"
flock --nonblock 9 || { say "$runs: another one is at work in it; wait for it or end it"; exit 1; }
if [[ -e $runs/config.json ]]; then
  [[ $(<"$runs/config.json") == "$wanted" ]] ||
    { say "$runs: was made with other settings; name another folder, or delete it"; exit 2; }
else
  printf '%s\n' "$wanted" >"$runs/config.json"
fi

# Prints the final test accuracy, training first where that has not been done.
failures=0
accuracy() {
  local directory=$runs/$1-$2
  if ! grep -q '"status": "complete"' "$directory/summary.json" 2>/dev/null; then
    rm -rf "$directory"
    "$root/stpt_starpu" --config "$config" --output "$directory" \
      --set "training.learning_rate.initial=$2" --set "training.learning_rate.policy=$1" >&2 ||
      return 1
  fi
  # C: a decimal point, whatever the locale says.
  LC_ALL=C awk -F'[:,]' '/"test_top1"/ { printf "%.1f %%", 100 * $2 }' "$directory/summary.json"
}

echo "| initial LR | STPT | fixed LR |"
echo "|---|---|---|"
for rate in 0.001 0.01 0.03 0.1 0.3 1.0; do
  row="| $rate |"
  for policy in stpt fixed; do
    if shown=$(accuracy $policy $rate); then
      row+=" $shown |"
    else
      row+=" failed |"
      failures=$((failures + 1))
    fi
  done
  echo "$row"
done
if (( failures )); then
  say "$failures of 12 trainings failed"
  exit 1
fi
