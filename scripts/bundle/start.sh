#!/usr/bin/env bash
# Starts a program of this folder with its libraries: start.sh PROGRAM [arguments]
set -euo pipefail
folder=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
program=$folder/bin/$1
name=$1
shift

die() { printf '%s: %s\n' "$name" "$*" >&2; exit 2; }

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
glibc=${glibc#glibc }
[[ -n $glibc ]] || die "this host has no glibc; this folder needs @GLIBC@ or newer"
# need_glibc VERSION WHAT
need_glibc() {
  [[ $(printf '%s\n' "$1" "$glibc" | sort -V | head -n 1) == "$1" ]] ||
    die "this host has glibc $glibc; $2 needs $1 or newer"
}
need_glibc @GLIBC@ "this folder"

given=${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH=$folder/lib${given:+:$given}
# The host's C++ library, unless it lacks something.
lacks="(GLIBCXX|CXXABI|GCC)_[0-9.]+' not found|lib(stdc\+\+|gcc_s)\.so[.0-9]* => not found"
if [[ $(LD_TRACE_LOADED_OBJECTS=1 "$program" 2>&1 || true) =~ $lacks ]]; then
  need_glibc @GLIBC_OF_CXX@ "its C++ library (libstdc++.so.6) is too old, and that of this folder"
  LD_LIBRARY_PATH=$folder/lib:$folder/lib/cxx${given:+:$given}
fi

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
    need_glibc @GLIBC_OF_MPI@ "it has no Open MPI 4 (libmpi.so.40), and that of this folder"
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
