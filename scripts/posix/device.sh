# A device of its own with one folder, mounted for every user of the machine, and a native folder beside
# it. Read by the scripts here; makes and removes nothing outside of $work.
# shellcheck shell=bash

work="${work:-}"
mnt="$work/mnt"
native="$work/native"

ctl() { COBOX_HOME="$work/home" COBOX_NETWORK=loopback timeout 120 "$COBOX_BIN/cobox-ctl" "$@"; }

daemon_pid() { ctl --json daemon status | sed -n 's/.*"pid":\([0-9]*\).*/\1/p'; }

device_make() {
    local base
    base=$(realpath "${COBOX_POSIX_DIR:-/tmp}") || return 1
    work=$(mktemp -d "$base/cobox-posix.XXXXXX") || return 1
    mnt="$work/mnt" native="$work/native"
    export work
    # Other users pass through; what is private has modes of its own.
    chmod 0755 "$work"
    mkdir "$mnt" "$native" "$work/log" "$work/scratch"
    ctl init --label posix --words-out "$work/words" --no-passphrase >/dev/null &&
        ctl folder create posix >/dev/null &&
        ctl mount posix "$mnt" --allow-other >/dev/null
}

device_remove() {
    [[ -n $work && -d $work ]] || return 0
    ctl daemon stop --force >/dev/null 2>&1
    if mountpoint -q "$mnt"; then
        umount -l "$mnt"
    fi
    rm -rf --one-file-system "$work"
}

# The next reads of a file come from the store, not from the kernel's cache.
forget_pages() { # FILE…
    local file
    for file in "$@"; do
        dd if="$file" iflag=nocache count=0 status=none
    done
}

# Ends the daemon without a word to it, and starts it again: the mount that it left is replaced.
kill_and_start() {
    local pid
    pid=$(daemon_pid)
    [[ -n $pid ]] || return 1
    kill -9 "$pid" || return 1
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    ctl daemon start >/dev/null && mountpoint -q "$mnt"
}

stop_and_start() { ctl daemon stop >/dev/null && ctl daemon start >/dev/null && mountpoint -q "$mnt"; }
