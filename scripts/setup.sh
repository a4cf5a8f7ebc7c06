#!/usr/bin/env bash
# Installs what building and testing needs: Debian packages, and StarPU 1.4 in a cache
# outside the repository. Run again, it checks and does nothing.
#
#   scripts/setup.sh            install whatever is missing
#   scripts/setup.sh --prefix   print the cached StarPU's prefix (nothing where pkg-config
#                               already finds a StarPU 1.4); installs nothing
#   scripts/setup.sh --cuda     print the CUDA toolkit's folder (nothing without one)
#
# STPT_STARPU_CACHE   where StarPU is kept (default ~/.cache/stpt_starpu)
# CUDA_HOME           the CUDA toolkit, where it is neither on PATH nor in /usr/local/cuda
# STPT_CUDA=OFF       does as if there were none: a StarPU for cores alone, whose workers sleep when
#                     they have nothing to do
set -Eeuo pipefail

starpu_version=1.4.10
# What StarPU can use; its own defaults are the cores of the machine that builds it, and 4 GPUs.
max_cpus=128
max_gpus=16
patches=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/patches
cache=${STPT_STARPU_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stpt_starpu}

trap 'say "stopped at line $LINENO"' ERR
say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The toolkit's folder, or nothing.
cuda_home() {
  local nvcc
  if [[ -n ${CUDA_HOME:-} && -x $CUDA_HOME/bin/nvcc ]]; then
    echo "$CUDA_HOME"
  elif nvcc=$(command -v nvcc); then
    dirname "$(dirname "$(readlink -f "$nvcc")")"
  elif [[ -x /usr/local/cuda/bin/nvcc ]]; then
    echo /usr/local/cuda
  fi
}

cuda=
[[ ${STPT_CUDA:-} == OFF ]] || cuda=$(cuda_home)
# Without GPUs workers without a task sleep (--enable-blocking-drivers): a spinning one would keep
# MPI's thread from the core they share. StarPU cannot run several workers on a GPU that way.
flavour=cpu-blocking
if [[ -n $cuda ]]; then
  flavour=gpus$max_gpus-cuda$("$cuda/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
fi
prefix=$cache/starpu-$starpu_version-$flavour-cpus$max_cpus

have_own_starpu() { pkg-config --exists starpu-1.4 2>/dev/null; }

if [[ ${1:-} == --prefix ]]; then
  have_own_starpu || echo "$prefix"
  exit 0
elif [[ ${1:-} == --cuda ]]; then
  echo "$cuda"
  exit 0
elif (( $# )); then
  say "unknown argument '$1'; usage: scripts/setup.sh [--prefix|--cuda]"
  exit 2
fi

# Runs a command with its output in $log; on failure shows the end of it.
logged() {
  "$@" >>"$log" 2>&1 && return
  say "failed: $*"
  say "the last lines of $log:"
  tail -n 25 "$log" >&2
  keep_log=1
  exit 1
}

# ---- Packages ------------------------------------------------------------------------------

. /etc/os-release 2>/dev/null || true

debian_packages() {
  local boost=libboost-json-dev
  [[ ${VERSION_ID:-} == 12 ]] && boost=libboost-json1.81-dev  # 12's default Boost has no JSON
  echo g++ cmake ninja-build pkg-config libhwloc-dev libopenmpi-dev openmpi-bin "$boost" \
    libdnnl-dev zlib1g-dev libjpeg62-turbo-dev libpng-dev libssl-dev catch2 \
    dataset-fashion-mnist python3-matplotlib
  # To build StarPU:
  have_own_starpu || echo libfxt-dev fxt-tools dpkg-dev make patch debian-archive-keyring
}

install_debian_packages() {
  local wanted missing=() sudo=()
  read -ra wanted -d '' < <(debian_packages) || true
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null || true)
  local package
  for package in "${wanted[@]}"; do
    grep -qxF "installed $package" <<<"$installed" || missing+=("$package")
  done
  (( ${#missing[@]} )) || return 0
  if (( EUID )); then
    command -v sudo >/dev/null || {
      say "missing packages, and neither root nor sudo to install them. As root:"
      say "  apt-get install --no-install-recommends ${missing[*]}"
      exit 2
    }
    sudo=(sudo)
  fi
  say "installing ${missing[*]}"
  logged "${sudo[@]}" apt-get -q update
  logged "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qy install --no-install-recommends "${missing[@]}"
}

# Elsewhere nothing is installed: name what is missing.
check_elsewhere() {
  local missing=()
  need() { missing+=("$1"); }
  header() { echo "#include <$1>" | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1; }
  module() { pkg-config --exists "$1" 2>/dev/null; }
  command -v "${CXX:-c++}" >/dev/null || need "a C++20 compiler (GCC 12 or newer)"
  command -v cmake >/dev/null || need "CMake 3.25 or newer"
  command -v ninja >/dev/null || need "Ninja"
  command -v pkg-config >/dev/null || need "pkg-config"
  module starpu-1.4 || need "StarPU 1.4 ($starpu_version or newer), found by pkg-config (PKG_CONFIG_PATH)"
  module hwloc || need "hwloc 2"
  header dnnl.hpp || need "oneDNN 2.6 or newer (dnnl.hpp)"
  header boost/json.hpp || need "Boost 1.75 or newer with Boost.JSON"
  header zlib.h || need "zlib"
  printf '#include <stdio.h>\n#include <jpeglib.h>\n' | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1 ||
    need "libjpeg-turbo"
  header png.h || need "libpng 1.6"
  header openssl/evp.h || need "OpenSSL 3 (libcrypto)"
  header catch2/catch.hpp || header catch2/catch_all.hpp || need "Catch2 2.13 or 3"
  "${PYTHON:-/usr/bin/python3}" -c "import matplotlib" 2>/dev/null ||
    need "Python 3 with matplotlib, for scripts/paper.sh (as /usr/bin/python3, or named by PYTHON)"
  command -v mpicxx >/dev/null || need "an MPI (Open MPI 4 or newer), for starpumpi-1.4"
  (( ${#missing[@]} )) || return 0
  say "this is no Debian system, so nothing is installed for you. Missing:"
  printf '  - %s\n' "${missing[@]}" >&2
  exit 2
}

# ---- StarPU --------------------------------------------------------------------------------

# Fetches Debian's source package into the current folder. apt gets a configuration of its own,
# so the system's sources stay as they are; it verifies what it fetches by Debian's keyring.
fetch_starpu() {
  local mirror keyring version options
  mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk -v codename="${VERSION_CODENAME:-}" '$1 == codename && !mirror++ { print $2 }')
  [[ -n $mirror ]] || die "apt knows no mirror of Debian ${VERSION_CODENAME:-}; add one to its sources"
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  mkdir -p apt/lists/partial apt/cache/archives/partial
  echo "deb-src [signed-by=$keyring] $mirror forky main" >apt/sources.list
  options=(-o "Dir::Etc::sourcelist=$PWD/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache"
    -o "APT::Sandbox::User=$(id -un)" -o APT::Update::Error-Mode=any
    # A mirror that lags behind will do: one package is wanted, and its signature is checked.
    -o Acquire::Check-Valid-Until=false)
  say "fetching Debian's source package of StarPU from $mirror"
  logged apt-get -q "${options[@]}" update
  version=$(apt-cache "${options[@]}" showsrc starpu | sed -n 's/^Version: //p' |
    grep "^1\.4\." | sort -V | tail -n 1) || die "$mirror has no source package of StarPU 1.4"
  [[ $version == "$starpu_version"[+-]* ]] || say "note: Debian now carries $version, taken instead"
  logged apt-get -q "${options[@]}" source --download-only "starpu=$version"
  logged dpkg-source --no-check -x starpu_*.dsc source  # apt has verified its parts
}

build_starpu() (
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock --nonblock 9 || { say "waiting for another build of StarPU"; flock 9; }
  [[ -e $prefix ]] && exit 0

  work=$(mktemp -d "${TMPDIR:-/tmp}/stpt_starpu.XXXXXX")
  stage=$cache/.staging
  trap 'rm -rf "$stage"; [[ -n ${keep_log:-} ]] || rm -rf "$work"' EXIT
  log=$work/log
  rm -rf "$stage"
  cd "$work"
  fetch_starpu
  cd source

  options=(--disable-cuda --enable-blocking-drivers)
  rpath=$prefix/lib
  if [[ -n $cuda ]]; then
    logged patch -p1 -i "$patches/starpu-cuda13.patch"
    options=(--enable-cuda "--with-cuda-dir=$cuda" --enable-maxcudadev="$max_gpus")
    rpath+=:$cuda/lib64
  fi
  say "building StarPU $starpu_version ($flavour) for $prefix; this takes a few minutes"
  logged ./configure --prefix="$prefix" "${options[@]}" --enable-mpi --with-fxt \
    --enable-maxcpus="$max_cpus" \
    --disable-starpufft --disable-socl --disable-opencl --disable-hip --disable-build-doc \
    --disable-build-examples --disable-build-tests --disable-static --disable-mpi-check \
    CFLAGS=-O2 CXXFLAGS=-O2 LDFLAGS="-Wl,-rpath,$rpath"
  logged make -j"$(nproc)"
  logged make install DESTDIR="$stage"
  mv "$stage$prefix" "$prefix"  # in one piece: what stands there is complete
  say "StarPU stands in $prefix"
)

# In braces with an exit, so that an update of this file does not disturb a run of it.
{
  if [[ ${ID:-} == debian ]]; then
    log=$(mktemp "${TMPDIR:-/tmp}/stpt_setup.XXXXXX.log")
    trap '[[ -n ${keep_log:-} ]] || rm -f "$log"' EXIT
    install_debian_packages
    have_own_starpu || [[ -e $prefix ]] || build_starpu
  else
    check_elsewhere
  fi
  exit
}
