#!/usr/bin/env bash
# Starts a program of this folder with its libraries: start.sh PROGRAM [arguments]
set -euo pipefail
folder=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
program=$folder/bin/$1
name=$1
shift

die() { printf '%s: %s\n' "$name" "$*" >&2; exit 2; }

needed=@GLIBC@
found=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
found=${found#glibc }
[[ -n $found ]] || die "this host has no glibc; this folder needs $needed or newer"
[[ $(printf '%s\n' "$needed" "$found" | sort -V | head -n 1) == "$needed" ]] ||
  die "this host has glibc $found; this folder needs $needed or newer"

given=${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH=$folder/lib${given:+:$given}

# Names of the libraries that the loader does not find.
missing() {
  LD_TRACE_LOADED_OBJECTS=1 "$program" 2>/dev/null |
    awk '/=> not found/ && !seen[$1]++ { print $1 }'
}
# add FOLDERS...: those that have a library which is missing.
add() {
  local library place
  for place in "$@"; do
    for library in $absent; do
      if [[ -e $place/$library ]]; then
        LD_LIBRARY_PATH+=:$place
        break
      fi
    done
  done
  absent=$(missing)
}

absent=$(missing)
if [[ $absent == *libmpi.so* || $absent == *libopen-* ]]; then
  # A process alone never calls MPI, so the library without its plugins will do. In a job it is the
  # launcher's.
  if [[ -n ${OMPI_COMM_WORLD_SIZE:-}${PMI_SIZE:-}${PMIX_RANK:-} ]]; then
    launcher=$(command -v mpirun || command -v mpiexec || true)
    prefix=${OPAL_PREFIX:-${launcher:+$(dirname "$(dirname "$(readlink -f "$launcher")")")}}
    add "$prefix/lib" "$prefix/lib64"
    [[ $absent != *libmpi.so* && $absent != *libopen-* ]] ||
      die "no library of Open MPI 4 (libmpi.so.40) for this job: name its folder in LD_LIBRARY_PATH"
  else
    LD_LIBRARY_PATH+=:$folder/lib/mpi
    absent=$(missing)
  fi
fi
if [[ -n $absent ]]; then
  add "${CUDA_HOME:-/usr/local/cuda}/lib64" /usr/local/cuda/lib64
fi
python=${PYTHON:-python3}
if [[ -n $absent ]] && command -v "$python" >/dev/null; then
  # NVIDIA's wheels, which PyTorch brings.
  wheels=$(LD_LIBRARY_PATH=$given "$python" -c '
import glob, sys
for path in sys.path:
    print(*glob.glob(glob.escape(path) + "/nvidia/*/lib"), sep="\n")')
  mapfile -t wheels <<<"$wheels"
  add "${wheels[@]}"
fi
[[ -z $absent ]] ||
  die "this host lacks ${absent//$'\n'/, }: install CUDA 13's libraries and cuDNN 9 (or PyTorch for CUDA 13), or name their folders in LD_LIBRARY_PATH"

exec "$program" "$@"
