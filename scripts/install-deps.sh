#!/bin/bash
# Installs the Debian packages that CoBox needs and this machine lacks, once, saying which and why.
# Installs nothing when nothing is missing. Needs root or sudo only when something is.
set -euo pipefail

packages=()
need() { # PACKAGE REASON
    packages+=("$1")
    printf '  %-14s %s\n' "$1" "$2"
}

libclang_found() {
    [[ -n ${LIBCLANG_PATH:-} ]] && return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && return 0
    compgen -G '/usr/lib/*/libclang*.so*' >/dev/null && return 0
    compgen -G '/usr/lib/libclang*.so*' >/dev/null && return 0
    compgen -G '/usr/lib64/libclang*.so*' >/dev/null
}

# bindgen also needs clang's own headers (stddef.h), which come with libclang-dev.
clang_headers_found() {
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null && return 0
    compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null
}

has() { command -v "$1" >/dev/null 2>&1; }

missing=$({
    { libclang_found && clang_headers_found; } || need libclang-dev "reads RocksDB's C header while building its bindings"
    has fusermount3 || need fuse3 "mounts the drive for users who are not root"
    has getfattr || need attr "getfattr and setfattr, with which the demo and the tests compare trees"
    has python3 || need python3 "runs the independent check of the format's test vectors, and the benchmark of a mount"
})

if [[ -n $missing ]]; then
    echo "CoBox needs these packages, which are not installed:"
    echo "$missing"
    mapfile -t packages < <(awk '{print $1}' <<<"$missing")
    root=()
    if [[ $(id -u) -ne 0 ]]; then
        if ! has sudo; then
            echo "Run this as root, then start again:  apt-get install ${packages[*]}" >&2
            exit 1
        fi
        root=(sudo)
    fi
    if ! has apt-get; then
        echo "This is not a Debian system: install what these packages hold with your own package manager, then start again." >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    if ! "${root[@]}" apt-get install -y --no-install-recommends "${packages[@]}"; then
        "${root[@]}" apt-get update
        if ! "${root[@]}" apt-get install -y --no-install-recommends "${packages[@]}"; then
            echo "They could not be installed. Check the network, then run:  apt-get install ${packages[*]}" >&2
            exit 1
        fi
    fi
fi

if ! has cargo; then
    echo "cargo was not found: install Rust 1.95 or newer from https://rustup.rs, then start again." >&2
    exit 1
fi
version=$(rustc --version | awk '{print $2}')
if [[ $(printf '%s\n' 1.95.0 "${version%%-*}" | sort -V | head -n 1) != 1.95.0 ]]; then
    echo "Rust $version is installed and CoBox needs 1.95 or newer: run  rustup update stable" >&2
    exit 1
fi
for tool in cc c++; do
    if ! has "$tool"; then
        echo "No C++ compiler was found ($tool), and RocksDB needs one: install  g++" >&2
        exit 1
    fi
done
if [[ ! -e /dev/fuse ]]; then
    echo "Note: there is no /dev/fuse here (run  modprobe fuse, or give the container --device /dev/fuse)." >&2
    echo "CoBox builds without it; what mounts is skipped." >&2
fi
