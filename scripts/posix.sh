#!/bin/bash
# Shows that a mount behaves as a local disk does: pjdfstest beside the native file system, a million
# operations of fsx, and the programs that people put on a disk; then the daemon is killed, and what the
# programs left is checked again. Ends with a table, and with exit code 1 when anything failed.
#
#   scripts/posix.sh                     everything (`make posix`)
#   scripts/posix.sh pjdfstest git …     only these; `scripts/posix.sh list` names them
#
# COBOX_BIN         where cobox-ctl and coboxd are
# COBOX_POSIX_DIR   where the device, its mount and the native folder beside it are made (default /tmp)
# FSX_OPS, FSX_SEEDS, FSX_FIRST_SEED   how much of fsx, and which seeds
set -uo pipefail
cd "$(dirname "$0")/.."
: "${COBOX_BIN:=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/cobox/target}/release}"
: "${COBOX_POSIX_TOOLS:=${XDG_CACHE_HOME:-$HOME/.cache}/cobox/posix-tools}"
export COBOX_BIN COBOX_POSIX_TOOLS
export FSX_OPS="${FSX_OPS:-1000000}" FSX_SEEDS="${FSX_SEEDS:-20}" FSX_FIRST_SEED="${FSX_FIRST_SEED:-1}"

programs=(sqlite git tar rsync cargo postgres image inotify locks names modes)
suites=(pjdfstest fsx)
daemon=(busy killed)
everything=("${suites[@]}" "${programs[@]}" "${daemon[@]}")
if [[ ${1:-} == list ]]; then
    printf '%s\n' "${everything[@]}"
    exit
fi
chosen=("$@")
[[ $# -gt 0 ]] || chosen=("${everything[@]}")
for name in "${chosen[@]}"; do
    if [[ " ${everything[*]} " != *" $name "* ]]; then
        echo "There is no check named $name; \`scripts/posix.sh list\` names them." >&2
        exit 2
    fi
done

# Other users, owners and device nodes are half of what is checked, and only root can make them.
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "This needs root (other users, owners, device nodes): run it as root." >&2
        exit 2
    fi
    scripts/posix/tools.sh || exit 1
    # Not --preserve-env: sudo replaces PATH all the same, and cargo is found through it.
    keep=()
    for name in COBOX_BIN COBOX_POSIX_TOOLS COBOX_POSIX_DIR FSX_OPS FSX_SEEDS FSX_FIRST_SEED PATH HOME; do
        [[ -z ${!name:-} ]] || keep+=("$name=${!name}")
    done
    exec sudo env "${keep[@]}" "$PWD/scripts/posix.sh" "${chosen[@]}"
fi
if [[ ! -e /dev/fuse ]]; then
    echo "There is no /dev/fuse on this machine (run  modprobe fuse): nothing can be mounted." >&2
    exit 2
fi
scripts/posix/tools.sh || exit 1
PATH="$COBOX_POSIX_TOOLS/bin:$PATH"

# shellcheck source=scripts/posix/device.sh
source scripts/posix/device.sh
child=""
stop_child() {
    [[ -n $child ]] || return 0
    kill "$child" 2>/dev/null
    wait "$child" 2>/dev/null
    child=""
}
cleanup() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    stop_child
    device_remove
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

passed=0 failed=0 skipped=0
table=()
began=$SECONDS

# One check in a process group of its own: its last line that begins with "figure: " goes into the table,
# exit code 77 says that something which it needs is not here.
check() { # NAME LIMIT_SECONDS COMMAND…
    local name=$1 limit=$2 log since=$SECONDS code result
    shift 2
    log="$work/log/${name// /-}"
    printf '%-28s ' "$name"
    timeout --kill-after=15 "$limit" "$@" >"$log" 2>&1 </dev/null &
    child=$!
    wait "$child"
    code=$?
    child=""
    case $code in
        0) result=passed passed=$((passed + 1)) ;;
        77) result=skipped skipped=$((skipped + 1)) ;;
        124 | 137) result="FAILED (after $limit s)" failed=$((failed + 1)) ;;
        *) result=FAILED failed=$((failed + 1)) ;;
    esac
    local figure took=$((SECONDS - since))
    figure=$(sed -n 's/^figure: //p' "$log" | tail -n 1)
    printf '%s  %s s  %s\n' "$result" "$took" "$figure"
    table+=("$(printf '%-28s %-10s %5s  %s' "$name" "$result" "$took" "$figure")")
    if [[ $result == FAILED* ]]; then
        echo "--- the end of what $name said:"
        tail -n 25 "$log"
        echo "---"
    fi
}

wants() { [[ " ${chosen[*]} " == *" $1 "* ]]; }

device_make || exit 1
echo "device in $work on $(stat -f -c %T "$work"), kernel $(uname -r), load $(cut -d' ' -f1-3 /proc/loadavg)"
wants pjdfstest && check pjdfstest 400 scripts/posix/pjdfstest.sh
wants fsx && check fsx 1100 scripts/posix/fsx.sh
left=()
for name in "${programs[@]}"; do
    wants "$name" || continue
    before=$passed
    check "$name" 240 scripts/posix/programs.sh "$name"
    [[ $passed -gt $before ]] && left+=("$name")
done
wants busy && check busy 60 scripts/posix/daemon.sh busy
if wants killed; then
    check "killed and started" 60 scripts/posix/daemon.sh killed
    for name in "${left[@]}"; do
        if scripts/posix/programs.sh has-after "$name"; then
            check "$name after that" 120 scripts/posix/programs.sh after "$name"
        fi
    done
fi

printf '\n%-28s %-10s %5s  %s\n' check result s figures
printf '%s\n' "${table[@]}"
printf '\n%d passed, %d failed, %d skipped in %d s\n' "$passed" "$failed" "$skipped" $((SECONDS - began))
[[ $failed -eq 0 ]]
