#!/bin/bash
# Runs every benchmark program of the package `benches`, with the machine's load before each, and then
# measures a mount beside the programs that people use instead; its tables go into docs/performance.md.
#
# BENCH_SCALE    how much the mount's workloads do: 1 is full (1 GiB, 5,000 files, the whole tree)
# BENCH_REPS     repetitions of each target (default 3)
# BENCH_BUDGET   seconds after which no further repetition starts (default 600; none at scale 1)
# BENCH_WRITE    the file whose marked section is replaced; empty writes nothing
# BENCH_ONLY     only the mount, with these workloads (`python3 benches/mount --help` names them) or `all`
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/cobox/target}"
export CARGO_TARGET_DIR

mount() {
    local scale=${BENCH_SCALE:-0.1} budget
    budget=${BENCH_BUDGET:-$(awk -v scale="$scale" 'BEGIN { print scale < 1 ? 600 : 14400 }')}
    local words=(--scale "$scale" --reps "${BENCH_REPS:-3}" --budget "$budget")
    local write=${BENCH_WRITE-docs/performance.md}
    [[ -z $write ]] || words+=(--write "$write")
    [[ -z ${BENCH_ONLY:-} || $BENCH_ONLY == all ]] || words+=(--only "$BENCH_ONLY")
    python3 benches/mount "${words[@]}"
}

if [[ -n ${BENCH_ONLY:-} ]]; then
    mount
    exit
fi
shopt -s nullglob
programs=(benches/src/bin/*.rs)
if [[ ${#programs[@]} -eq 0 ]]; then
    echo "there are no benchmark programs in benches/src/bin" >&2
    exit 1
fi
printf 'machine: %s cores, %s\n' "$(nproc)" "$(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo)"
for program in "${programs[@]}"; do
    name=$(basename "$program" .rs)
    printf '\n== %s (load %s)\n' "$name" "$(cut -d' ' -f1-3 /proc/loadavg)"
    "$CARGO_TARGET_DIR/release/$name"
done
printf '\n== mount (load %s)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
if [[ -e /dev/fuse ]]; then
    mount
else
    echo "skipped: there is no /dev/fuse on this machine"
fi
printf '\n== from close on one device to visible on another (load %s)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
if [[ -e /dev/fuse && $(id -u) -eq 0 ]] && command -v ip >/dev/null; then
    python3 benches/live/visible.py --bin "$CARGO_TARGET_DIR/release"
else
    echo "skipped: it makes hosts of network namespaces, which needs root, iproute2 and /dev/fuse"
fi
