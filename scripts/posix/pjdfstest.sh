#!/bin/bash
# pjdfstest on the native file system and on the mount, in one run. The mount must pass everything that
# the native one passes, and fail nothing. Called by scripts/posix.sh.
set -uo pipefail
# Skipped on a FUSE mount, whoever serves it: the C library knows LINK_MAX by the type of file system only.
SKIPPED_BESIDES='^link::link_count_max$'
# shellcheck source=scripts/posix/device.sh
source "$(dirname "$0")/device.sh"

cat >"$work/pjdfstest.toml" <<'CONF'
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
rename_ctime = {}
[settings]
# Longer than a tick of the kernel's coarse clock, by which the native file system stamps.
naptime = 0.02
# It would make the machine's own disk read-only.
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
CONF

run() { # WHERE OTHER: prints one line "name result" for each test
    local dir="$1/pjd" other="$2/pjd-other"
    mkdir -p "$dir" "$other"
    chmod 0755 "$dir" "$other"
    RUST_BACKTRACE=0 pjdfstest -c "$work/pjdfstest.toml" -p "$dir" -s "$other" >"$work/pjdfstest.out" 2>&1
    sed 's/\x1b\[[0-9;]*m//g' "$work/pjdfstest.out" >"$work/pjdfstest.plain"
    awk '$2 == "ok" || tolower($2) == "failed" || $2 == "skipped" { print $1, tolower($2) }' \
        "$work/pjdfstest.plain" | sort
    rm -rf "$dir" "$other"
}
count() { grep -c " $2\$" "$1"; }

run "$native" "$mnt" >"$work/pjd.native"
grep -E '^Summary' "$work/pjdfstest.plain" | sed 's/^/native: /'
run "$mnt" "$native" >"$work/pjd.mount"
grep -E '^Summary' "$work/pjdfstest.plain" | sed 's/^/mount: /'

for result in failed skipped; do
    echo "$result on the mount:"
    sed -n "s/ $result\$//p" "$work/pjd.mount"
done
echo "passed on the native file system and not on the mount (besides $SKIPPED_BESIDES):"
comm -23 <(sed -n 's/ ok$//p' "$work/pjd.native") <(sed -n 's/ ok$//p' "$work/pjd.mount") |
    grep -v "$SKIPPED_BESIDES" | tee "$work/pjd.worse"
[[ $(count "$work/pjd.mount" failed) -eq 0 ]] || sed -n '/FAILED\|failed/,+4p' "$work/pjdfstest.plain" | head -150
native_ok=$(count "$work/pjd.native" ok) mount_ok=$(count "$work/pjd.mount" ok)
echo "figure: $mount_ok passed, $(count "$work/pjd.mount" failed) failed, $(count "$work/pjd.mount" skipped) skipped;" \
    "native $native_ok, $(count "$work/pjd.native" failed), $(count "$work/pjd.native" skipped)"
[[ $native_ok -gt 0 && $mount_ok -gt 0 && $(count "$work/pjd.mount" failed) -eq 0 && ! -s "$work/pjd.worse" ]]
