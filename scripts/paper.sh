#!/usr/bin/env bash
# Every table and figure of the paper: installs what is missing, builds, trains all arms with all
# seeds, writes a page with the counterparts of Figures 2 to 8.
#   scripts/paper.sh [small | cifar10 | paper] [options]; --help lists them
# Killed and started again, it goes on where it was.
set -euo pipefail
python=${PYTHON:-/usr/bin/python3}  # the one that scripts/setup.sh gives matplotlib to
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
for option in "$@"; do
  [[ $option != -h && $option != --help ]] || exec "$python" "$root/scripts/paper/matrix.py" --help
done
"$root/scripts/build.sh" stpt_starpu
exec "$python" "$root/scripts/paper/matrix.py" --program "$root/stpt_starpu" "$@"
