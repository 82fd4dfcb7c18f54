#!/bin/bash
# Who has your back-ups, in the open: two members and three seeders on five machines of their own; a seeder is
# claimed, another one signs an agreement, a disk is damaged, a seeder is switched off, a third takes its place,
# and space is released.
#
# `make demo-seeder` builds the programs first. The machines are network namespaces on a switch of their own,
# so it needs root and iproute2; nothing of it appears in this machine's network. Everything lies in one
# temporary folder, and everything is ended by its process id and removed by its path, also when interrupted.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:=${XDG_CACHE_HOME:-$HOME/.cache}/cobox/target}"
bin=$(realpath -m "${COBOX_BIN:-$CARGO_TARGET_DIR/release}")
seeder_bin=$(realpath -m "${COBOX_SEEDER:-$CARGO_TARGET_DIR/seeder/cobox-seeder}")

net=cobox-demo-$$
tmp=''
namespaces=() mounts=()
declare -A pid_of=() address_of=() lines_of=()
ports=0

say() { # PARAGRAPH…
    local text
    for text in "$@"; do printf '%s\n' "$text" | fold -s -w 110 | sed 's/ *$//'; done
}
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
cannot() { printf 'The demo cannot run here: %s\n' "$*" >&2; exit 1; }
fail() {
    trap - ERR
    printf '\nthe demo failed: %s\n' "$*" >&2
    local log
    for log in "$tmp"/*.log; do
        [[ -s $log ]] && { printf -- '-- the end of %s\n' "${log##*/}" >&2; tail -n 12 "$log" >&2; }
    done
    exit 1
}

# -- machines ------------------------------------------------------------------------------------

alive() { [[ -n $1 ]] && kill -0 "$1" 2>/dev/null; }
end() { # PID NAME: asks, then insists, and says so
    alive "$1" || return 0
    kill "$1" 2>/dev/null || true
    for _ in {1..150}; do alive "$1" || return 0; sleep 0.1; done
    printf '%s did not end within 15 s and is killed; the end of its log:\n' "$2" >&2
    tail -n 6 "$tmp/$2.log" >&2
    kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
cleanup() {
    local status=$? at
    trap - EXIT ERR INT TERM HUP
    for at in "${!pid_of[@]}"; do end "${pid_of[$at]}" "$at"; done
    for at in "${mounts[@]}"; do
        grep -qF " $at " /proc/self/mounts || continue
        fusermount3 -uzq "$at" 2>/dev/null || umount -l "$at" 2>/dev/null || true
    done
    # Cables go with the machines at their ends.
    for at in "${namespaces[@]}"; do ip netns del "$at" 2>/dev/null || true; done
    cd /
    # Never across a mount: if one is still there, its files are not ours to remove.
    [[ -z $tmp ]] || rm -rf --one-file-system "$tmp" || printf 'left behind: %s\n' "$tmp"
    exit "$status"
}
trap cleanup EXIT
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
trap 'printf "\ninterrupted\n"; exit 130' INT
trap 'exit 143' TERM HUP

namespace() { # NAME
    ip netns add "$net-$1" 2>/dev/null || return 1
    namespaces+=("$net-$1")
    ip -n "$net-$1" link set lo up
}
machine() { # NAME: a namespace with one cable to the switch, and no other network
    namespace "$1" || cannot "no network namespace can be made (it needs root and iproute2)."
    ports=$((ports + 1))
    address_of[$1]=10.77.0.$ports
    ip link add eth0 netns "$net-$1" type veth peer name "$1" netns "$net-switch"
    ip -n "$net-switch" link set "$1" master br0 up
    ip -n "$net-$1" addr add "10.77.0.$ports/24" dev eth0
    ip -n "$net-$1" link set eth0 up
    # So that multicast, with which members find one another, has a way out.
    ip -n "$net-$1" route add default dev eth0
}
cable() { ip -n "$net-switch" link set "$1" "$2"; } # NAME up|down

# Runs a program on a machine, in the temporary folder. Not `ip netns exec`, which also hides mounts.
on() { # NAME PROGRAM…
    local name=$1 program=$2
    shift 2
    [[ $program == cobox-ctl ]] && program=$bin/cobox-ctl
    [[ $program == cobox-seeder ]] && program=$seeder_bin
    COBOX_HOME=$tmp/$name nsenter --net="/run/netns/$net-$name" "$program" "$@"
}
# What somebody types at a machine.
typed() { # NAME PROGRAM…
    local name=$1
    shift
    # Quotes only where they are needed.
    printf '\n\033[32m%s$\033[0m %s\n' "$name" "$(sed -E "s/'([A-Za-z0-9@%+=:,.\/_&#-]+)'/\1/g" <<<"${*@Q}")"
}
# The same with what it says; its exit code is in $code.
show() { # NAME PROGRAM…
    typed "$@"
    code=0
    on "$@" 2>&1 || code=$?
}
must() { show "$@"; [[ $code -eq 0 ]] || fail "${*:2} ended with $code"; }
field() { grep -o "\"$1\":\"[^\"]*\"" | sed -n "1{s/^\"$1\":\"//; s/\"\$//; p}"; } # NAME: of JSON, the first
number() { grep -o "\"$1\":[0-9]*" | sed -n "1{s/^\"$1\"://; p}"; }
until_true() { # WHAT COMMAND…: three minutes at the most
    local what=$1
    shift
    for _ in {1..900}; do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
    fail "$what: not within three minutes"
}

power_on() { # SEEDER OPTIONS…: runs it until its power is cut
    local name=$1 at
    shift
    typed "$name" cobox-seeder run --data "$name" "$@" '&'
    nsenter --net="/run/netns/$net-$name" "$seeder_bin" run --data "$name" "$@" >>"$tmp/$name.log" 2>&1 &
    pid_of[$name]=$!
    for at in {1..150}; do
        alive "${pid_of[$name]}" || fail "the seeder $name ended"
        seeder_address "$name" >/dev/null && return 0
        sleep 0.1
    done
    fail "the seeder $name does not start"
}
seeder_address() { on "$1" cobox-seeder address --data "$1" 2>/dev/null | tail -n 1 | grep .; }
power_off() { # SEEDER: as if the plug was pulled
    kill -9 "${pid_of[$1]}"
    wait "${pid_of[$1]}" 2>/dev/null || true
    pid_of[$1]=''
}
member() { # NAME: a device with a daemon and somebody who is told when something is wrong
    local name=$1
    must "$name" cobox-ctl init --label "$name" --no-passphrase --words-out "$name.words"
    nsenter --net="/run/netns/$net-$name" env COBOX_HOME="$tmp/$name" "$bin/cobox-ctl" daemon run >>"$tmp/$name.log" 2>&1 &
    pid_of[$name]=$!
    until_true "the daemon of $name answers" on "$name" cobox-ctl daemon status
    mkdir -p "$tmp/$name-club"
    mounts+=("$tmp/$name-club")
    printf '#!/bin/sh\nsed -n "s/.*\\"text\\":\\"\\([^\\"]*\\)\\".*/\\1/p" >>%s\n' "$tmp/$name.told" >"$tmp/$name.hook"
    chmod 0700 "$tmp/$name.hook"
    : >"$tmp/$name.told"
}
told() { # NAME SINCE PATTERN: waits for what a member is told after so many lines, and shows it
    until_true "$1 is told" grep_told "$@"
    printf '\n\033[33m%s is told:\033[0m %s\n' "$1" "$(grep_told "$@" | sed -n 1p)"
}
grep_told() { tail -n "+$(($2 + 1))" "$tmp/$1.told" | grep -e "$3"; }

# A bit in the middle of each of a seeder's two largest files: what a disk that grows old does.
damage() { # SEEDER
    local file at byte
    find "$tmp/$1/db" -name '*.sst' -printf '%s %p\n' | sort -rn | sed -n 's/^[0-9]* //; 1,2p' >"$tmp/files"
    [[ $(wc -l <"$tmp/files") -eq 2 ]] || fail "the seeder has no packs"
    while IFS= read -r file; do
        at=$(($(stat -c %s "$file") / 2))
        byte=$(od -An -tu1 -j "$at" -N 1 "$file")
        printf "\\x$(printf %02x $((byte ^ 16)))" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
        printf '%s\n' "one bit of ${file#"$tmp"/} is now another one"
    done <"$tmp/files"
}

# -- what it needs -------------------------------------------------------------------------------

for program in "$bin/cobox-ctl" "$bin/coboxd" "$seeder_bin"; do
    [[ -x $program ]] || cannot "$program is missing. Run \`make demo-seeder\`, which builds it."
done
[[ -e /dev/fuse ]] || cannot "there is no /dev/fuse. Run \`modprobe fuse\`, or give the container \`--device /dev/fuse\`."
for program in ip nsenter fusermount3; do
    command -v "$program" >/dev/null || cannot "$program is missing. Install it with \`apt-get install iproute2 util-linux fuse3\`."
done
[[ $(id -u) -eq 0 ]] || cannot "machines of their own (network namespaces) need root. Run it as root, or run \`make demo\`, which does not."
tmp=$(mktemp -d "${TMPDIR:-/tmp}/cobox-demo-seeder.XXXXXX")
cd "$tmp"
started=$SECONDS
namespace switch || cannot "no network namespace can be made; a container needs \`--privileged\` or \`--cap-add SYS_ADMIN --cap-add NET_ADMIN\`."
ip -n "$net-switch" link add br0 type bridge mcast_snooping 0 2>/dev/null || cannot "this kernel has no bridges."
ip -n "$net-switch" link set br0 up
for name in anna bob box berlin malmo; do machine "$name"; done

# -- the story -----------------------------------------------------------------------------------

step "1. Five machines on one switch, with no other network"
say "anna and bob are people with laptops. box is a small computer in Anna's cupboard, berlin belongs to a co-operative, malmo to a friend of Bob's: seeders, which keep what they cannot read."
for name in anna bob box berlin malmo; do printf '  %-7s %s\n' "$name" "${address_of[$name]}"; done
member anna
member bob

step "2. A claim: Anna's box is told who owns it, once"
power_on box
until_true "the box shows its code" grep -q '^coboxclaim' box.log
grep -A 1 '^Nobody owns' box.log
claim=$(grep -m 1 '^coboxclaim' box.log)
must anna cobox-ctl seeder claim --name box <<<"$claim"
must anna cobox-ctl seeder manage box status

step "3. A folder, which the box is to keep: Anna says yes from her laptop"
must anna cobox-ctl folder create club
must anna cobox-ctl mount club anna-club
must anna cobox-ctl seeder add club "$(seeder_address box)" --quota 2G
id=''
waits() { id=$(on anna cobox-ctl seeder manage box report --json | field id); [[ -n $id ]]; }
for _ in {1..100}; do waits && break; sleep 0.2; done
[[ -n $id ]] || fail "the grant does not reach the box"
must anna cobox-ctl seeder manage box seed "$id"

step "4. An agreement: the co-operative signs what it promises"
power_on berlin
must anna cobox-ctl agreement propose club "$(seeder_address berlin)" --quota 2G --until "$(date -d '+1 year' +%F)" \
    --notice 30d --place Berlin --organisation Kollektiv --contact box@kollektiv.example
pending() { on berlin cobox-seeder pending --data berlin --json | grep -q '"id"'; }
until_true "the terms wait" pending
must berlin cobox-seeder pending --data berlin
id=$(on berlin cobox-seeder pending --data berlin --json | field id)
must berlin cobox-seeder agreement accept "$id" --data berlin
agreed() { on anna cobox-ctl agreement list club --json | grep -q '"stage":"agreed"'; }
until_true "both have signed" agreed
must anna cobox-ctl agreement show club
say "" "Both sides hold this text with both signatures; each machine enforces it."

step "5. Bob joins, and both write"
typed anna cobox-ctl folder invite club --role write
code_for_bob=$(on anna cobox-ctl folder invite club --role write | sed -n 1p)
printf '%s\n' "$code_for_bob"
say "(and as a QR code)"
must bob cobox-ctl folder join "$code_for_bob"
must bob cobox-ctl mount club bob-club
typed anna cp -a photos/. anna-club/photos/
mkdir anna-club/photos
for number in {01..20}; do head -c 2M /dev/urandom >"anna-club/photos/picture-$number.jpg"; done
typed bob cp film.mkv bob-club/
head -c 48M /dev/urandom >bob-club/film.mkv
# What Bob's device has not told yet cannot be waited for at Anna's.
whole() { [[ $(stat -c %s anna-club/film.mkv) -eq $(stat -c %s bob-club/film.mkv) ]]; }
until_true "Anna has Bob's film" whole
must anna cobox-ctl folder set club --copies 2
must anna cobox-ctl wait club --copies 2 --timeout 3m
healthy() { on "$1" cobox-ctl health club; }
for name in anna bob; do until_true "$name sees two copies" healthy "$name"; done
must anna cobox-ctl health club
must anna cobox-ctl whereis anna-club/film.mkv
say "" "Anna and Bob want to be told when there are fewer copies than two. (A program is run here, which puts what it is told into a file; --mail and --url are the others. A quarter of a minute of trouble is enough here, half an hour is the default.)"
for name in anna bob; do must "$name" cobox-ctl alarm set --run "$tmp/$name.hook" --after 15s; done

step "6. The disk of Anna's box is damaged, and nobody is there"
say "Both laptops are shut: their cables are pulled. The box loses its power, and when it comes back two bits on its disk have changed."
cable anna down
cable bob down
power_off box
damage box
power_on box
say "" "A seeder reads all it holds once a week by itself. Here it is told to do so now:"
show box cobox-seeder scrub --data box
mended() {
    local status
    status=$(on box cobox-seeder status --data box --json)
    [[ $(number packs_damaged <<<"$status") -ge 2 && $(number packs_unmended <<<"$status") -eq 0 && $(number packs_missing <<<"$status") -eq 0 ]]
}
until_true "the box is mended" mended
typed box grep -i damaged box.log
grep -i damaged box.log | sed 's/\x1b\[[0-9;]*m//g' | cut -c 1-160 | sed -n 1,4p
must box cobox-seeder status --data box
say "" "It took what was damaged from berlin, with no member online and without a key. Read again:"
must box cobox-seeder scrub --data box
cable anna up
cable bob up

step "7. The co-operative's seeder is switched off"
for name in anna bob; do until_true "$name is well" healthy "$name"; done
for name in anna bob; do lines_of[$name]=$(wc -l <"$name.told"); done
power_off berlin
say "berlin has no power."
typed bob cp -a minutes/. bob-club/minutes/
mkdir bob-club/minutes
for number in {1..12}; do head -c 300K /dev/urandom >"bob-club/minutes/2026-$number.odt"; done
for name in anna bob; do told "$name" "${lines_of[$name]}" ' of 2 copies are proved'; done
show bob cobox-ctl health club
say "(It ended with $code: 3 is amber, as berlin proved what there was until a moment ago and the new minutes wait for it. Five minutes after the first of them it is 1, red. Both keep saying so until there are two copies again. Where nothing is written, a seeder that nobody hears of is an alarm of its own after two sevenths of the tolerance: two days, unless set.)"
[[ $code -eq 3 || $code -eq 1 ]] || fail "health ended with $code"

step "8. A new copy: a friend's seeder takes over with a code that tells it nothing"
power_on malmo
for name in anna bob; do lines_of[$name]=$(wc -l <"$name.told"); done
typed anna cobox-ctl seeder code club --quota 2G
code_for_malmo=$(on anna cobox-ctl seeder code club --quota 2G | grep -o 'coboxseed1[a-z0-9]*' | sed -n 1p)
printf '%s\n' "$code_for_malmo"
say "(and as a QR code)"
must malmo cobox-seeder seed "$code_for_malmo" --data malmo
must anna cobox-ctl wait club --copies 2 --timeout 3m
for name in anna bob; do told "$name" "${lines_of[$name]}" 'all is well again'; done
must anna cobox-ctl health club
must malmo cobox-seeder status --data malmo

step "9. The agreement with the co-operative ends, with notice"
berlin_id=$(on anna cobox-ctl agreement list club --json | field seeder)
must anna cobox-ctl agreement end club "$berlin_id"
power_on berlin
until_true "berlin has what was written meanwhile" bash -c "[[ \$(ip netns exec '$net-berlin' '$seeder_bin' status --data '$tmp/berlin' --json | grep -o '\"packs_missing\":0') ]]"
must berlin cobox-seeder agreement list --data berlin

step "10. A release: the film is no longer wanted"
typed bob rm bob-club/film.mkv
rm bob-club/film.mkv
gone() { [[ ! -e anna-club/film.mkv ]]; }
until_true "the film is gone at Anna's" gone
must anna cobox-ctl wait club --copies 2 --timeout 3m
say "" "Nothing is given back by itself. An admin asks, and every device that writes has to answer first:"
must anna cobox-ctl prune club --dry-run
before=$(du -sm anna | cut -f1)
show anna cobox-ctl prune club
[[ $code -eq 0 || $code -eq 3 ]] || fail "prune ended with $code"
smaller() { [[ $(du -sm anna | cut -f1) -le $((before - 40)) ]]; }
until_true "Anna's laptop has its space back" smaller
say "" "The store on Anna's laptop took $before MiB and takes $(du -sm anna | cut -f1) MiB."
held() { [[ $(on "$1" cobox-seeder status --data "$1" --json | number held_bytes) -gt 0 ]]; }
until_true "the box knows of the release" held box
say "" "Bob's device has answered, and the release went out:"
must box cobox-seeder status --data box
say "" "The members have their space back at once. A seeder keeps what was released for 30 days more (48 hours where it was young, as here), counted only while it runs: a stolen laptop can ask for anything and cannot take the past away. There is no option that shortens this, and so this demo does not wait for it; the test released_packs_are_kept_for_30_days_of_use_and_then_their_bytes_are_gone_from_the_disk does, with a clock that it moves itself."

step "11. Everything that is wanted is there"
same() { diff -r --exclude=.cobox anna-club bob-club; }
until_true "both mounts show the same" same
say "diff -r of both drives: no difference, $(find anna-club -type f -not -path '*/.cobox/*' | wc -l) files"
must anna cobox-ctl wait club --copies 2 --timeout 3m
must anna cobox-ctl check club
must anna cobox-ctl health club

printf '\nshown in %s s: a claim, an agreement, damage mended by another seeder, an alarm, a new copy, and a release.\n' "$((SECONDS - started))"
