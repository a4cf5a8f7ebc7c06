#!/usr/bin/env bash
# Installs what building and testing needs: Debian packages and, in a cache outside the
# repository, StarPU 1.4 and the headers of cudnn-frontend. Run again, it checks and does nothing.
#
#   scripts/setup.sh                    install whatever is missing
#   scripts/setup.sh --prefix           print the cached StarPU's prefix (nothing where pkg-config
#                                       already finds a StarPU 1.4); installs nothing
#   scripts/setup.sh --cuda             print the CUDA toolkit's folder (nothing without one)
#   scripts/setup.sh --cudnn-frontend   print the cached cudnn-frontend's folder (nothing without a
#                                       CUDA toolkit, or where its headers are installed)
#
# STPT_STARPU_CACHE   where both are kept (default ~/.cache/stpt_starpu)
# CUDA_HOME           the CUDA toolkit, where it is neither on PATH nor in /usr/local/cuda
# STPT_CUDA=OFF       does as if there were none: a StarPU for cores alone, whose workers sleep when
#                     they have nothing to do
set -Eeuo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;; esac

starpu_version=1.4.10
# What StarPU can use; its own defaults are the cores of the machine that builds it, and 4 GPUs.
max_cpus=128
max_gpus=16
cudnn_frontend_version=1.32.0
# Of the wheel for CPython 3.11 on x86-64; the headers are the same in all.
cudnn_frontend_sha256=c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0
unset CDPATH  # cd prints nothing
patches=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/patches
home=${HOME:-$(getent passwd "$(id -u)" | cut -d : -f 6)}
cache=${STPT_STARPU_CACHE:-${XDG_CACHE_HOME:-$home/.cache}/stpt_starpu}

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
case ${STPT_CUDA:-AUTO} in
  AUTO | ON) cuda=$(cuda_home) ;;
  OFF) ;;
  *) say "STPT_CUDA is '$STPT_CUDA', not AUTO, ON or OFF"; exit 2 ;;
esac
# Without GPUs workers without a task sleep (--enable-blocking-drivers): a spinning one would keep
# MPI's thread from the core they share. StarPU cannot run several workers on a GPU that way.
flavour=cpu-blocking
if [[ -n $cuda ]]; then
  flavour=gpus$max_gpus-cuda$("$cuda/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  flavour+=-patches$(cat "$patches"/*.patch | sha256sum | cut -c 1-8)
fi
prefix=$cache/starpu-$starpu_version-$flavour-cpus$max_cpus
cudnn_frontend=$cache/cudnn-frontend-$cudnn_frontend_version

have_own_starpu() { pkg-config --exists starpu-1.4 2>/dev/null; }

# Whether the compiler finds a header: in its own folders, in CPATH's or in the toolkit's.
header() {
  printf '#if !__has_include(<%s>)\n#error missing\n#endif\n' "$1" |
    "${CXX:-c++}" -E -x c++ ${cuda:+-I"$cuda/include"} - >/dev/null 2>&1
}

needs_cudnn_frontend() { [[ -n $cuda ]] && ! header cudnn_frontend.h; }

if [[ ${1:-} == --prefix ]]; then
  have_own_starpu || echo "$prefix"
  exit 0
elif [[ ${1:-} == --cuda ]]; then
  echo "$cuda"
  exit 0
elif [[ ${1:-} == --cudnn-frontend ]]; then
  ! needs_cudnn_frontend || echo "$cudnn_frontend"
  exit 0
elif (( $# )); then
  say "unknown argument '$1'; usage: scripts/setup.sh [--prefix|--cuda|--cudnn-frontend]"
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
    libdnnl-dev zlib1g-dev libjpeg62-turbo-dev libpng-dev nettle-dev catch2 \
    dataset-fashion-mnist python3-matplotlib
  # To build StarPU:
  have_own_starpu || echo libfxt-dev fxt-tools dpkg-dev make patch debian-archive-keyring
  # To fetch cudnn-frontend:
  if needs_cudnn_frontend && [[ ! -e $cudnn_frontend ]] && ! python3 -m pip --version >/dev/null 2>&1
  then
    echo python3-pip
  fi
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
  header jpeglib.h || need "libjpeg-turbo"
  header png.h || need "libpng 1.6"
  header nettle/sha2.h || need "Nettle 3"
  header catch2/catch.hpp || header catch2/catch_all.hpp || need "Catch2 2.13 or 3"
  "${PYTHON:-/usr/bin/python3}" -c "import matplotlib" 2>/dev/null ||
    need "Python 3 with matplotlib, for scripts/paper.sh (as /usr/bin/python3, or named by PYTHON)"
  if [[ -n $cuda ]]; then
    header cudnn.h || need "cuDNN 9 for CUDA ($cuda), or STPT_CUDA=OFF in the environment, for a build without GPUs"
    header cudnn_frontend.h || [[ -e $cudnn_frontend ]] ||
      need "cudnn-frontend 1.12 or newer (headers; its include folder in CPATH, or as $cudnn_frontend/include)"
  fi
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

# Begins the filling of the cache: alone there, in a folder of its own ($work), with $stage to put
# together what is moved into place when it is complete.
begin_in_cache() {
  # What StarPU's configure can do with.
  [[ $cache == /* && $cache != *[[:space:]]* ]] ||
    die "cannot use the cache $cache: set STPT_STARPU_CACHE to an absolute path without spaces"
  [[ ${TMPDIR:-/tmp} == /* && ${TMPDIR:-} != *[[:space:]]* ]] ||
    die "cannot build in $TMPDIR: set TMPDIR to an absolute path without spaces"
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock --nonblock 9 || { say "waiting for another setup"; flock 9; }
  work=$(mktemp -d "${TMPDIR:-/tmp}/stpt_setup.XXXXXX")
  stage=$cache/.staging
  trap 'rm -rf "$stage"; [[ -n ${keep_log:-} ]] || rm -rf "$work"' EXIT
  log=$work/log
  rm -rf "$stage"
  cd "$work"
}

build_starpu() (
  begin_in_cache
  [[ -e $prefix ]] && exit 0
  fetch_starpu
  cd source

  options=(--disable-cuda --enable-blocking-drivers)
  rpath=$prefix/lib
  if [[ -n $cuda ]]; then
    for patch in "$patches"/*.patch; do logged patch -p1 -i "$patch"; done
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

# ---- cudnn-frontend ------------------------------------------------------------------------

# The headers, from NVIDIA's Python package.
fetch_cudnn_frontend() (
  begin_in_cache
  [[ -e $cudnn_frontend ]] && exit 0
  say "fetching the headers of cudnn-frontend $cudnn_frontend_version from the Python Package Index"
  echo "nvidia-cudnn-frontend==$cudnn_frontend_version --hash=sha256:$cudnn_frontend_sha256" >wanted
  logged python3 -m pip --disable-pip-version-check download --no-deps --require-hashes \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 \
    --platform manylinux_2_28_x86_64 --requirement wanted --dest .
  logged python3 -m zipfile -e nvidia_cudnn_frontend-*.whl wheel
  mkdir "$stage"
  mv wheel/include wheel/*.dist-info "$stage"  # with the licence
  mv "$stage" "$cudnn_frontend"
  say "cudnn-frontend stands in $cudnn_frontend"
)

# In braces with an exit, so that an update of this file does not disturb a run of it.
{
  if [[ ${ID:-} == debian ]]; then
    log=$(mktemp "${TMPDIR:-/tmp}/stpt_setup.XXXXXX.log")
    trap '[[ -n ${keep_log:-} ]] || rm -f "$log"' EXIT
    install_debian_packages
    have_own_starpu || [[ -e $prefix ]] || build_starpu
    ! needs_cudnn_frontend || [[ -e $cudnn_frontend ]] || fetch_cudnn_frontend
  else
    check_elsewhere
  fi
  exit
}
