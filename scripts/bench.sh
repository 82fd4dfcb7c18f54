#!/bin/bash
# Runs every benchmark program of the package `benches`, with the machine's load before each.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/cobox/target}"
export CARGO_TARGET_DIR

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
