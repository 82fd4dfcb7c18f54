#!/bin/bash
# The whole story on real files, in the open: mount a private folder, have it kept by a seeder that
# cannot read it, lose the machine, get everything back from 24 words.
#
# `make demo` builds the programs first. INPUT=PATH copies your own files instead of the project's
# checkout and RocksDB's sources. Everything happens in one temporary folder on loopback; it leaves
# nothing behind, also when interrupted.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
root=$PWD
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/cobox/target}"
bin=${COBOX_BIN:-$CARGO_TARGET_DIR/release}
seeder_bin=${COBOX_SEEDER:-$CARGO_TARGET_DIR/seeder/cobox-seeder}
input=${INPUT:-}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/cobox-demo.XXXXXX")
home1=$tmp/laptop home2=$tmp/new-laptop data=$tmp/seeder
mount1=$tmp/drive mount2=$tmp/drive-again
reference=$tmp/reference
seeder_pid='' daemon_pid=''
shown=()

say() { printf '%s\n' "$*"; }
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    printf '\nthe demo failed: %s\n' "$*" >&2
    for log in "$tmp"/*.log "$home1"/log/*.log "$home2"/log/*.log; do
        [[ -s $log ]] && { printf -- '-- the end of %s\n' "${log#"$tmp"/}" >&2; tail -n 12 "$log" >&2; }
    done
    exit 1
}

alive() { [[ -n $1 ]] && kill -0 "$1" 2>/dev/null; }
end() { # PID: asks, then insists
    alive "$1" || return 0
    kill "$1" 2>/dev/null || true
    for _ in {1..100}; do alive "$1" || return 0; sleep 0.1; done
    kill -9 "$1" 2>/dev/null || true
}
unmount() { # DIR: whatever state it is in
    grep -qF " $1 " /proc/self/mounts || return 0
    fusermount3 -uz "$1" 2>/dev/null || umount -l "$1" 2>/dev/null || true
}
cleanup() {
    local status=$?
    trap - EXIT INT TERM HUP
    end "$daemon_pid"
    unmount "$mount1"
    unmount "$mount2"
    end "$seeder_pid"
    # Never across a mount: if one is still there, its files are not ours to remove.
    rm -rf --one-file-system "$tmp" || say "left behind: $tmp"
    exit "$status"
}
trap cleanup EXIT
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
trap 'say; say interrupted; exit 130' INT
trap 'exit 143' TERM HUP

now() { printf '%s' "${EPOCHREALTIME/./}"; }
measure() { # BYTES MICROSECONDS: "12.3 s, 45.6 MiB/s"
    awk -v b="$1" -v u="$2" 'BEGIN { s = u / 1e6; printf "%.1f s, %.1f MiB/s", s, (s > 0 ? b / 1048576 / s : 0) }'
}
size_of() { du -sb --apparent-size "$1" | cut -f1; }
files_in() { find "$1" -type f | wc -l; }
# Its devices are for this machine alone.
export COBOX_NETWORK=loopback
ctl1() { COBOX_HOME=$home1 "$bin/cobox-ctl" "$@"; }
ctl2() { COBOX_HOME=$home2 "$bin/cobox-ctl" "$@"; }
pid_of_daemon() { "$1" daemon status --json | sed -n 's/.*"pid":\([0-9]*\).*/\1/p'; }

# Everything but content: kind, mode, time, size, link target; which names share an inode; xattrs.
listing() {
    (
        cd "$1"
        find . -mindepth 1 -not -path './.cobox*' \( -type d -printf '%P|%y|%m|%T@\n' -o -printf '%P|%y|%m|%T@|%s|%n|%l\n' \) | LC_ALL=C sort
        find . -not -path './.cobox*' -type f -links +1 -printf '%i|%P\n' | LC_ALL=C sort -t'|' -k1,1 -k2 |
            awk -F'|' '$1 != last { first = $2; last = $1 } { print $2 " is " first }' | LC_ALL=C sort
        find . -mindepth 1 -not -path './.cobox*' \( -type f -o -type d \) -print0 | LC_ALL=C sort -z |
            xargs -0r getfattr -h -d -m '^user\.' -e hex 2>/dev/null | grep -v '^user\.cobox\.' || true
    )
}

# The edits of a working day, the same on the mount and on the reference.
work_on() {
    local dir=$1
    mkdir -p "$dir/notes/empty folder" "$dir/notes/Größe & Übermut"
    printf 'canary-content-7f3a: the quick brown fox\n' >"$dir/notes/canary-name-51c9.txt"
    ln -s "../does/not/exist" "$dir/notes/dangling"
    ln "$dir/notes/canary-name-51c9.txt" "$dir/notes/same file, other name.txt"
    setfattr -n user.canary -v "canary-xattr-e210" "$dir/notes/canary-name-51c9.txt"
    truncate -s 5M "$dir/notes/sparse"
    printf 'in the middle' | dd of="$dir/notes/sparse" bs=1 seek=3000000 conv=notrunc status=none
    chmod 0700 "$dir/notes/empty folder"
    touch -d '2001-02-03 04:05:06.789 UTC' "$dir/notes/canary-name-51c9.txt"
    local first
    first=$(find "$dir" -mindepth 1 -maxdepth 1 -type d -not -name notes -not -name .cobox | LC_ALL=C sort | sed -n 1p)
    if [[ -n $first ]]; then
        mapfile -t some < <(cd "$first" && find . -type f -not -path '*/.git/*' -size +1k | LC_ALL=C sort | sed -n 1,40p)
        local at
        for at in "${!some[@]}"; do
            case $((at % 4)) in
            0) printf '\nappended by the demo\n' >>"$first/${some[at]}" ;;
            1) rm "$first/${some[at]}" ;;
            2) mv "$first/${some[at]}" "$first/${some[at]}.renamed" ;;
            3) printf 'overwritten at the start' | dd of="$first/${some[at]}" conv=notrunc status=none ;;
            esac
        done
        cp -a "$first" "$dir/copied and moved"
        mv "$dir/copied and moved" "$dir/notes/moved"
        rm -rf "$dir/notes/moved/.git"
    fi
}

# Strings that only the member may know: names and lines of the files, the words, the canaries.
# A seeder writes down its own address, which begins so; a folder of the project's sources has that name too.
seeders_word=cobox-seeder
secrets_of() { # DIR: into $tmp/needles
    {
        (cd "$1" && find . -mindepth 1 -printf '%f\n') | awk 'length($0) >= 12'
        find "$1" -type f -size -256k -not -path '*/.git/*' -print0 | LC_ALL=C sort -z | sed -zn 1,600p |
            xargs -0 -n 50 awk 'FNR > 3 && length($0) >= 40 && length($0) < 200 { print; nextfile }' 2>/dev/null
    } | LC_ALL=C grep -a '[[:alpha:]]\{4\}' | LC_ALL=C grep -avxF "$seeders_word" | LC_ALL=C sort -u
}

started=$(now)
for program in "$bin/cobox-ctl" "$bin/coboxd" "$seeder_bin"; do
    [[ -x $program ]] || { say "$program is missing: run \`make demo\`, which builds it."; exit 1; }
done
[[ -e /dev/fuse ]] || { say "There is no /dev/fuse here: run \`modprobe fuse\`, or give the container \`--device /dev/fuse\`."; exit 1; }
mkdir -p "$mount1" "$mount2" "$reference"

step "1. The files"
if [[ -n $input ]]; then
    [[ -e $input ]] || fail "INPUT=$input does not exist"
    cp -a "$input" "$reference/"
else
    mkdir "$reference/checkout"
    tar -C "$root" --exclude=./target --exclude=./fuzz/target -cf - . | tar -C "$reference/checkout" -xf -
    host=$(rustc -vV | sed -n 's/^host: //p')
    rocksdb=$(cargo metadata --format-version 1 --locked --filter-platform "$host" 2>/dev/null |
        grep -o '"manifest_path":"[^"]*librocksdb-sys[^"]*/Cargo.toml"' | sed -n '1{s/.*:"//; s|/Cargo.toml"||; p}')
    [[ -d $rocksdb/rocksdb ]] || fail "RocksDB's sources were not found in cargo's registry"
    cp -a "$rocksdb/rocksdb" "$reference/rocksdb"
fi
bytes=$(size_of "$reference")
count=$(files_in "$reference")
say "$count files, $((bytes / 1048576)) MiB, in $(cd "$reference" && echo *)"

step "2. A device and a seeder that cannot read"
ctl1 init --label laptop --no-passphrase --words-out "$tmp/words" >/dev/null || fail "init"
words=$(wc -w <"$tmp/words")
[[ $words -eq 24 ]] || fail "$words words instead of 24"
for _ in {1..20}; do
    port=$((20000 + RANDOM % 30000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
"$seeder_bin" run --data "$data" --listen "/ip4/127.0.0.1/tcp/$port" --accept any >"$tmp/seeder.log" 2>&1 &
seeder_pid=$!
address=''
for _ in {1..100}; do
    alive "$seeder_pid" || fail "the seeder ended"
    address=$("$seeder_bin" address --data "$data" 2>/dev/null | tail -n 1) && [[ -n $address ]] && break
    sleep 0.1
done
[[ -n $address ]] || fail "the seeder has no address"
ctl1 folder create photos >/dev/null || fail "folder create"
daemon_pid=$(pid_of_daemon ctl1)
ctl1 seeder add photos "$address" --quota 20G || fail "seeder add"
ctl1 mount photos "$mount1" || fail "mount"
shown+=("a folder made, granted to a blind seeder and mounted")

step "3. Copying $count files onto the mount with cp -a"
begun=$(now)
cp -a "$reference/." "$mount1/" || fail "cp -a"
sync -f "$mount1"
say "copied and synced: $(measure "$bytes" $(($(now) - begun)))"
# What the two roots and their parents do not share is the mount itself.
diff <(listing "$reference") <(listing "$mount1") >"$tmp/difference" || { head -n 20 "$tmp/difference"; fail "the copy's metadata differ"; }
say "the same kinds, modes, times, sizes, links and xattrs as the original"

step "4. Working on it: edit, append, rename, delete, link, move"
begun=$(now)
work_on "$mount1" || fail "work on the mount"
say "done in $(measure 0 $(($(now) - begun)) | cut -d, -f1)"
work_on "$reference"
diff -r --no-dereference --exclude=.cobox "$reference" "$mount1" >"$tmp/difference" || { head -n 20 "$tmp/difference"; fail "the mount differs from a plain disk"; }
say "diff -r against the same work on a plain disk: no difference"

while IFS= read -r -d '' git_dir; do
    repo=$(dirname "${git_dir#"$mount1"/}")
    step "5. git on the mount: $repo"
    git() { command git -c safe.directory='*' -c core.fsmonitor=false "$@"; }
    export GIT_OPTIONAL_LOCKS=0
    begun=$(now)
    git -C "$mount1/$repo" status --short >"$tmp/status.mount" || fail "git status on the mount"
    git -C "$reference/$repo" status --short >"$tmp/status.reference" || fail "git status"
    cmp -s "$tmp/status.mount" "$tmp/status.reference" || fail "git status differs from the one on a plain disk"
    say "git status: $(wc -l <"$tmp/status.mount") changes, as on a plain disk"
    git -C "$mount1/$repo" fsck --full --no-progress >"$tmp/fsck" 2>&1 || { cat "$tmp/fsck"; fail "git fsck"; }
    say "git fsck: sound ($(measure 0 $(($(now) - begun)) | cut -d, -f1))"
    shown+=("git status and git fsck sound")
    unset -f git
    break
done < <(find "$mount1" -mindepth 1 -maxdepth 2 -name .git -print0)

step "6. Waiting for a proved copy"
begun=$(now)
ctl1 wait photos --copies 1 --timeout 200s || fail "no proved copy"
took=$(($(now) - begun))
say "waited $(measure 0 "$took" | cut -d, -f1)"
ctl1 status photos
shown+=("a proved copy")
listing "$mount1" >"$tmp/before"

step "7. What the seeder can see"
secrets_of "$reference" >"$tmp/needles.all"
tr ' ' '\n' <"$tmp/words" | paste -sd' ' >"$tmp/needles.canary"
printf '%s\n' canary-content-7f3a canary-name-51c9 canary-xattr-e210 photos laptop >>"$tmp/needles.canary"
find "$data" -type f -print0 >"$tmp/stored"
control=$(LC_ALL=C grep -raFl -f "$tmp/needles.all" "$reference" | wc -l)
[[ $control -gt 0 ]] || fail "the search finds nothing even in the original files"
LC_ALL=C xargs -0 grep -aFn -f "$tmp/needles.canary" <"$tmp/stored" >"$tmp/hits" && { head -c 2000 "$tmp/hits"; fail "the seeder stored something readable"; }
# RocksDB writes its own source names and options into LOG and OPTIONS; they are its words, not ours.
grep -zv -e '/LOG[^/]*$' -e '/OPTIONS-[^/]*$' <"$tmp/stored" |
    LC_ALL=C xargs -0 grep -aFn -f "$tmp/needles.all" >"$tmp/hits" && { head -c 2000 "$tmp/hits"; fail "the seeder stored something readable"; }
say "$(wc -l <"$tmp/needles.all") names and lines of the files, the words and the canaries: 0 found in $(tr -cd '\0' <"$tmp/stored" | wc -c) files"
say "(the same search finds them in $control of the original files)"
shown+=("nothing readable at the seeder")

step "8. The machine is lost: kill -9, and its home is deleted"
kill -9 "$daemon_pid" || fail "kill -9"
for _ in {1..100}; do alive "$daemon_pid" || break; sleep 0.1; done
daemon_pid=''
unmount "$mount1"
rm -rf --one-file-system "$home1"
say "$home1 is gone; what is left is the seeder and the 24 words"

step "9. Back from nothing: 24 words and the seeder's address"
begun=$(now)
ctl2 recover --words-file "$tmp/words" --seeder "$address" --label new-laptop --no-passphrase || fail "recover"
daemon_pid=$(pid_of_daemon ctl2)
ctl2 mount photos "$mount2" || fail "mount after the recovery"
say "mounted again after $(measure 0 $(($(now) - begun)) | cut -d, -f1)"
begun=$(now)
diff -r --no-dereference --exclude=.cobox "$reference" "$mount2" >"$tmp/difference" || { head -n 20 "$tmp/difference"; fail "content differs after the recovery"; }
say "diff -r with the reference: no difference; fetched and read $(measure "$(size_of "$reference")" $(($(now) - begun)))"
listing "$mount2" >"$tmp/after"
diff "$tmp/before" "$tmp/after" >"$tmp/difference" || { head -n 20 "$tmp/difference"; fail "metadata differ after the recovery"; }
say "$(wc -l <"$tmp/after") lines of metadata: no difference"
ctl2 check photos || fail "check"
ctl2 umount "$mount2" || fail "umount"
ctl2 daemon stop >/dev/null || fail "daemon stop"
daemon_pid=''
shown+=("everything identical after a recovery from the words alone")

printf '\nshown in %s: ' "$(measure 0 $(($(now) - started)) | cut -d, -f1)"
(IFS=';'; printf '%s.\n' "${shown[*]}" | sed 's/;/; /g')
