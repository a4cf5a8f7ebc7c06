#!/usr/bin/env bash
# Makes a folder that runs on other x86-64 Linux hosts without installing anything:
#   scripts/bundle.sh [--tests] [FOLDER]
# It has the program, StarPU and all other libraries but the C library and NVIDIA's. FOLDER
# (default: bundle) is made anew. --tests adds the tests of GPUs and the benchmarks.
#   CUDA_ARCHITECTURES   what to build for, as "80;90"; default: those of CMakeLists.txt
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
most_mebibytes=60

say() { printf 'bundle: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

tests=
if [[ ${1:-} == --tests ]]; then
  tests=yes
  shift
fi
[[ $# -le 1 && ${1:-} != -* ]] || { say "usage: scripts/bundle.sh [--tests] [FOLDER]"; exit 2; }
folder=$(realpath -m "${1:-bundle}")
# Only what is a bundle goes to make room for one.
[[ ! -e $folder || -e $folder/lib/start.sh ]] || die "$folder exists and is no bundle"
target=$folder
folder=$target.part  # until all of it is there

# ---- Build ---------------------------------------------------------------------------------

build=$root/build-bundle
"$root/scripts/setup.sh"
architectures=(-U CMAKE_CUDA_ARCHITECTURES)
[[ -z ${CUDA_ARCHITECTURES:-} ]] || architectures=(-D "CMAKE_CUDA_ARCHITECTURES=$CUDA_ARCHITECTURES")
cmake -S "$root" -B "$build" -G Ninja -DSTPT_BUNDLE=ON -DSTPT_BUILD_TESTS="${tests:-NO}" \
  -DSTPT_BUILD_BENCHMARKS="${tests:-NO}" "${architectures[@]}" >&2
programs=(stpt_starpu)
if [[ -n $tests ]]; then
  programs+=(step_bench)
  for program in {runtime,codelets,models,data,stpt}_tests gpu_bench; do
    ! ninja -C "$build" -t query "$program" &>/dev/null || programs+=("$program")
  done
fi
cmake --build "$build" --target "${programs[@]}" >&2

# ---- Programs and their libraries ----------------------------------------------------------

rm -rf "$folder"
mkdir -p "$folder"/{bin,lib/cxx,lib/mpi}
for program in "${programs[@]}"; do
  install --strip "$build/$program" "$folder/bin/$program"
done

starpu=$("$root/scripts/setup.sh" --prefix)
cuda=$("$root/scripts/setup.sh" --cuda)
export LD_LIBRARY_PATH=$build:${starpu:+$starpu/lib:}${cuda:+$cuda/lib64:}${LD_LIBRARY_PATH:-}
# glibc's: they belong to the kernel's side and to the loader.
of_the_host='^(linux-vdso|ld-linux-x86-64|libc|libm|libmvec|libdl|libpthread|librt|libresolv|libutil|libanl)\.so'
of_nvidia='^lib(cuda|cudart|cublas|cublasLt|cusparse|cusolver|nvJitLink|nvrtc|cudnn[a-z_]*)\.so'
# Open MPI brings its plugins, which are not here: the host's own is taken where there is a job.
# Debian's need a newer C library than all the rest: the host's own are taken where they will do.
of_cxx='^lib(stdc\+\+|gcc_s)\.so'
of_mpi='^lib(mpi|open-rte|open-pal|event_core-2.1|event_pthreads-2.1)\.so'
while read -r name path; do
  [[ $path == /* ]] || die "$name was not found"
  if [[ $name =~ $of_the_host || $name =~ $of_nvidia ]]; then
    continue
  elif [[ $name =~ $of_mpi ]]; then
    install --mode 644 --strip "$path" "$folder/lib/mpi/$name"
  elif [[ $name =~ $of_cxx ]]; then
    install --mode 644 --strip "$path" "$folder/lib/cxx/$name"
  else
    install --mode 644 --strip "$path" "$folder/lib/$name"
  fi
done < <(ldd "$folder"/bin/* | sed -n 's/^\t\(\S*\) => \(.*\) (0x[0-9a-f]*)$/\1 \2/p; s/^\t\(\S*\) => not found$/\1 nowhere/p' |
  sort -u)

# ---- The rest ------------------------------------------------------------------------------

# newest_glibc FILES...: the version of the C library whose symbols they ask for.
newest_glibc() {
  objdump -T "$@" | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -n 1 | sed 's/GLIBC_//'
}
glibc=$(newest_glibc "$folder"/bin/* "$folder"/lib/*.so*)
glibc_of_cxx=$(newest_glibc "$folder"/lib/cxx/*.so*)
glibc_of_mpi=$(newest_glibc "$folder"/lib/mpi/*.so*)
nvidia=$(objdump -p "$folder"/bin/* "$folder"/lib/*.so* |
  awk '$1 == "NEEDED" { print $2 }' | grep -E "$of_nvidia" | sort -u | tr '\n' ' ' || true)
version=$(LD_LIBRARY_PATH="$folder/lib:$folder/lib/cxx:$folder/lib/mpi:$LD_LIBRARY_PATH" \
  "$folder/bin/stpt_starpu" --version)

# fill_in FILE TARGET: with what this bundle needs.
fill_in() {
  sed -e "s/@GLIBC@/$glibc/g" -e "s/@GLIBC_OF_CXX@/$glibc_of_cxx/g" \
    -e "s/@GLIBC_OF_MPI@/$glibc_of_mpi/g" -e "s/@VERSION@/$version/g" -e "s/@NVIDIA@/${nvidia% }/g" "$1" >"$2"
}
fill_in "$root/scripts/bundle/start.sh" "$folder/lib/start.sh"
fill_in "$root/scripts/bundle/README.txt" "$folder/README.txt"
install "$root/scripts/bundle/stpt_starpu" "$folder/stpt_starpu"
cp -r "$root/configs" "$folder/configs"
if [[ -n $tests ]]; then
  mkdir -p "$folder"/{scripts,tests/bench,tests/golden}
  install "$root/scripts/bundle/run_tests.sh" "$folder/run_tests.sh"
  install "$root/scripts/bench.sh" "$folder/scripts/bench.sh"
  cp "$root"/tests/bench/*gpu*.py "$folder/tests/bench/"
  cp "$root"/tests/golden/{*.bin,*.txt} "$folder/tests/golden/"
fi
chmod +x "$folder/lib/start.sh"

# ---- Checks --------------------------------------------------------------------------------

# Everything but NVIDIA's must be found here or be the C library's.
missing=$(env -i LD_LIBRARY_PATH="$folder/lib:$folder/lib/cxx:$folder/lib/mpi" ldd "$folder"/bin/* |
  awk -F ' => ' -v own="$folder/" 'NF == 2 && index($2, own) != 1 { print $1 }' | tr -d '\t' | sort -u |
  grep -vE "$of_the_host|$of_nvidia" || true)
[[ -z $missing ]] || die "not in the folder: ${missing//$'\n'/ }"
size=$(du -sm --apparent-size "$folder" | cut -f 1)
(( size <= most_mebibytes )) ||
  die "$folder has $size MiB, more than $most_mebibytes: build for fewer GPUs (CUDA_ARCHITECTURES=90)"
rm -rf "$target"
mv "$folder" "$target"
say "$target: $version, $size MiB, for hosts with glibc $glibc or newer"
