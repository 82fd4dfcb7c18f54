#!/bin/bash
# How a daemon ends while programs use its mount, and what the next one does with the mount of one that
# was killed. Called by scripts/posix.sh.
set -euo pipefail
# shellcheck source=scripts/posix/device.sh
source "$(dirname "$0")/device.sh"
fail() { echo "FAILED: $*"; exit 1; }

busy() {
    echo kept >"$mnt/kept"
    # A program with an open file, and one that works inside.
    sleep 60 <"$mnt/kept" & local reader=$!
    (cd "$mnt" && exec sleep 60) & local worker=$!
    trap 'kill $reader $worker 2>/dev/null || true' EXIT
    local way
    for way in "umount $mnt" "daemon stop"; do
        # shellcheck disable=SC2086
        if ctl $way >"$work/scratch/busy" 2>&1; then fail "$way did not refuse"; fi
        grep -q "sleep ($reader, open file)" "$work/scratch/busy" || { cat "$work/scratch/busy"; fail "$way does not name the open file"; }
        grep -q "sleep ($worker, working directory)" "$work/scratch/busy" || { cat "$work/scratch/busy"; fail "$way does not name the working directory"; }
        [[ $(cat "$mnt/kept") == kept ]] || fail "after $way the mount does not work"
    done
    ctl daemon stop --force || fail "daemon stop --force"
    ! mountpoint -q "$mnt" || fail "the mount stayed"
    kill "$reader" "$worker"
    trap - EXIT
    ctl daemon start >/dev/null
    [[ $(cat "$mnt/kept") == kept ]] || fail "after the next start the mount does not work"
    echo "figure: umount and daemon stop name who holds files; --force ends it"
}

killed() {
    echo "written and synced" >"$mnt/synced"
    sync "$mnt/synced"
    echo "written and closed" >"$mnt/closed"
    kill -9 "$(daemon_pid)"
    local deadline=$((SECONDS + 20))
    until ! ls "$mnt" >/dev/null 2>&1; do [[ $SECONDS -lt $deadline ]] || fail "it still answers"; sleep 0.05; done
    mountpoint -q "$mnt" 2>/dev/null || grep -q " $mnt fuse.cobox " /proc/mounts || fail "no dead mount was left"
    ctl daemon start >/dev/null || fail "daemon start"
    [[ $(cat "$mnt/synced") == "written and synced" && $(cat "$mnt/closed") == "written and closed" ]] || fail "something is lost"
    [[ $(grep -c " $mnt fuse.cobox " /proc/mounts) -eq 1 ]] || fail "the dead mount is still there"
    echo "figure: the dead mount was replaced, what was synced or closed is there"
}

"$1"
