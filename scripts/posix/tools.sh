#!/bin/bash
# Installs what scripts/posix.sh runs and this machine lacks: Debian packages, and the two suites from
# crates.io at these versions into COBOX_POSIX_TOOLS. Does nothing when all is there.
set -euo pipefail
: "${COBOX_POSIX_TOOLS:=${XDG_CACHE_HOME:-$HOME/.cache}/cobox/posix-tools}"
SUITES=(pjdfstest@0.2.2 fsx@0.3.2)

packages=()
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || packages+=("$2")
}
need git git
need rsync rsync
need fio fio
need inotifywait inotify-tools
need sqlite3 sqlite3
need qemu-img qemu-utils
need qemu-io qemu-utils
need setfattr attr
need setpriv util-linux
need python3 python3
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)

if [[ ${#packages[@]} -gt 0 ]]; then
    echo "These packages are needed and not installed: ${packages[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "This is not a Debian system: install their programs, then start again. What is missing is skipped." >&2
    else
        root=()
        [[ $(id -u) -eq 0 ]] || root=(sudo)
        export DEBIAN_FRONTEND=noninteractive
        "${root[@]}" apt-get install -y --no-install-recommends "${packages[@]}" ||
            { "${root[@]}" apt-get update && "${root[@]}" apt-get install -y --no-install-recommends "${packages[@]}"; } ||
            { echo "They could not be installed: run  apt-get install ${packages[*]}" >&2; exit 1; }
    fi
fi

for suite in "${SUITES[@]}"; do
    name=${suite%@*} version=${suite#*@}
    stamp="$COBOX_POSIX_TOOLS/$name-$version"
    [[ -x $COBOX_POSIX_TOOLS/bin/$name && -e $stamp ]] && continue
    echo "Installing $name $version from crates.io into $COBOX_POSIX_TOOLS"
    CARGO_TARGET_DIR="$COBOX_POSIX_TOOLS/target" cargo install --locked --force \
        --root "$COBOX_POSIX_TOOLS" --version "$version" "$name"
    touch "$stamp"
done
rm -rf "$COBOX_POSIX_TOOLS/target"
