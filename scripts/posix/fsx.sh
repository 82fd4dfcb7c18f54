#!/bin/bash
# fsx on the mount: FSX_OPS operations over FSX_SEEDS seeds, with shared mappings, holes, fallocate,
# copy_file_range, sendfile and fadvise, two at a time. After each round the files' sums are noted, the
# kernel's pages dropped and the daemon stopped or killed and started again, and the sums must be the same.
# Called by scripts/posix.sh.
set -uo pipefail
# shellcheck source=scripts/posix/device.sh
source "$(dirname "$0")/device.sh"
SEEDS_IN_A_ROUND=4

cat >"$work/fsx.toml" <<'CONF'
flen = 1048576
[opsize]
min = 1
max = 65536
[weights]
close_open = 0.2
invalidate = 0.2
read = 2.0
write = 2.0
mapread = 1.0
mapwrite = 1.0
truncate = 1.0
fsync = 0.1
fdatasync = 0.1
punch_hole = 1.0
posix_fallocate = 1.0
copy_file_range = 1.0
sendfile = 1.0
posix_fadvise = 0.5
CONF

dir="$mnt/fsx"
mkdir -p "$dir" "$work/scratch/fsx"
ops=$(((FSX_OPS + FSX_SEEDS - 1) / FSX_SEEDS))
done_ops=0 bad=0 restarts=0

one() { # SEED
    fsx -N "$ops" -S "$1" -P "$work/scratch/fsx" -f "$work/fsx.toml" "$dir/$1" >"$work/log/fsx.$1" 2>&1 &&
        grep -q 'A-OK' "$work/log/fsx.$1"
}

again() { # ROUND: the daemon comes back in one of three ways, and all files are what they were
    local sums="$work/scratch/fsx/sums"
    sha256sum "$dir"/* >"$sums"
    sync -f "$dir"
    case $(($1 % 3)) in
        0) kill_and_start ;;
        1) stop_and_start ;;
        2) forget_pages "$dir"/* ;;
    esac || { echo "round $1: the daemon did not come back"; return 1; }
    sha256sum --quiet -c "$sums"
}

last=$((FSX_FIRST_SEED + FSX_SEEDS - 1)) round=0
for ((seed = FSX_FIRST_SEED; seed <= last; seed += SEEDS_IN_A_ROUND)); do
    end=$((seed + SEEDS_IN_A_ROUND - 1))
    [[ $end -le $last ]] || end=$last
    for ((pair = seed; pair <= end; pair += 2)); do
        one "$pair" & first=$!
        second=""
        if [[ $((pair + 1)) -le $end ]]; then
            one $((pair + 1)) & second=$!
        fi
        wait "$first" || { echo "seed $pair: mismatch"; bad=$((bad + 1)); tail -n 15 "$work/log/fsx.$pair"; }
        done_ops=$((done_ops + ops))
        if [[ -n $second ]]; then
            wait "$second" || { echo "seed $((pair + 1)): mismatch"; bad=$((bad + 1)); tail -n 15 "$work/log/fsx.$((pair + 1))"; }
            done_ops=$((done_ops + ops))
        fi
    done
    again "$round" || bad=$((bad + 1))
    restarts=$((restarts + 1))
    round=$((round + 1))
done
rm -rf "$dir"
echo "figure: $done_ops operations, $FSX_SEEDS seeds from $FSX_FIRST_SEED, $restarts restarts or dropped caches, $bad mismatches"
[[ $bad -eq 0 ]]
