#!/bin/bash
# What people put on a disk, each used for real on the mount and its outcome asserted.
#
#   programs.sh NAME         uses it in a folder of its own, which stays
#   programs.sh after NAME   looks again at what is there, after the daemon was killed and started
#   programs.sh has-after NAME
#
# Called by scripts/posix.sh. Exit code 77: something it needs is not on this machine.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
here="$repository/scripts/posix"
# shellcheck source=scripts/posix/device.sh
source "$here/device.sh"

figure() { echo "figure: $*"; }
fail() { echo "FAILED: $*"; exit 1; }
same() { [[ $1 == "$2" ]] || fail "$3: expected «$2», got «$1»"; }
needs() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || { figure "$program is not installed"; exit 77; }
    done
}

# A tree of source code, with some of what archives must keep: links of both kinds, a FIFO, a hole,
# attributes, odd modes, an old time.
sample_tree() { # DIR
    mkdir -p "$1"
    (cd "$repository" && tar -cf - --exclude=target --exclude=.git cobox-fs cobox-store docs scripts Cargo.toml) | tar -C "$1" -xf -
    (
        cd "$1"
        mkdir -p odd/empty
        ln -s ../docs/semantics.md odd/link
        ln -s nowhere odd/dangling
        ln Cargo.toml odd/hard
        mkfifo odd/fifo
        printf end | dd of=odd/hole bs=1 seek=9000000 conv=notrunc status=none
        head -c 3000000 /dev/urandom >odd/noise
        setfattr -n user.colour -v blue odd/noise
        chmod 0751 odd/empty
        chmod 4711 odd/hard
        chown 1234:5678 odd/noise
        touch -d '1999-12-31 23:59:59.123456789' odd/link odd/noise
        touch "odd/new
line" odd/$'\xff\xfe'
    )
}

# -- databases

sqlite_invariant() { # FILE EXPECTED_ROWS
    same "$(sqlite3 "$1" 'PRAGMA integrity_check')" ok "integrity of $1"
    same "$(sqlite3 "$1" 'SELECT count(*), sum(n) = count(*) * (count(*) + 1) / 2 FROM t')" "$2|1" "rows of $1"
}

use_sqlite() {
    needs sqlite3
    local mode writer
    for mode in delete wal; do
        local file=$mode.db
        same "$(sqlite3 "$file" "PRAGMA journal_mode=$mode; CREATE TABLE t(n INTEGER PRIMARY KEY, x BLOB);")" "$mode" "journal mode"
        # Two writers and a reader at a time: locks between processes, and in WAL a shared mapping.
        for writer in 0 1; do
            for batch in $(seq 40); do
                echo "PRAGMA busy_timeout=20000; BEGIN IMMEDIATE;"
                for _ in $(seq 50); do
                    echo "INSERT INTO t SELECT coalesce(max(n), 0) + 1, randomblob(300) FROM t;"
                done
                echo "COMMIT;"
            done | sqlite3 -bail "$file" >/dev/null &
        done
        for _ in $(seq 20); do
            sqlite3 -cmd '.timeout 20000' "$file" \
                'SELECT CASE WHEN count(*) = coalesce(max(n), 0) THEN "" ELSE "torn" END FROM t' | grep -q torn && fail "$mode: a reader saw half a transaction"
        done
        wait %1 %2 || fail "$mode: a writer failed"
        sqlite_invariant "$file" 4000
        # A writer that dies in a transaction leaves nothing of it.
        mkfifo "$work/scratch/words.$mode"
        sqlite3 "$file" <"$work/scratch/words.$mode" >"$work/scratch/sqlite.$mode" &
        writer=$!
        exec {words}>"$work/scratch/words.$mode"
        echo "BEGIN IMMEDIATE; DELETE FROM t WHERE n > 2000; UPDATE t SET x = randomblob(300); SELECT 'in it';" >&"$words"
        local deadline=$((SECONDS + 20))
        until grep -q 'in it' "$work/scratch/sqlite.$mode"; do [[ $SECONDS -lt $deadline ]] || fail "the writer is stuck"; sleep 0.05; done
        kill -9 "$writer"
        wait "$writer" || true
        exec {words}>&-
        sqlite_invariant "$file" 4000
        sqlite3 "$file" 'VACUUM'
    done
    figure "DELETE and WAL: 2 × 2 writers, 4000 rows each, a killed writer each"
}
after_sqlite() {
    sqlite_invariant delete.db 4000
    sqlite_invariant wal.db 4000
}

postgres_as() { setpriv --reuid="$pg_user" --regid="$pg_user" --init-groups env HOME="$PWD" "$@"; }
postgres_sums() {
    postgres_as "$pg/psql" -h "$socket" -At postgres -c "
        SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
           AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
           AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)"
}
postgres_places() {
    local found
    found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) || { figure "PostgreSQL is not installed"; exit 77; }
    pg=$(dirname "$found")
    pg_user=nobody
    ! id postgres >/dev/null 2>&1 || pg_user=postgres
    # The socket's path must be short; the data is what is on the mount.
    socket="$work/scratch/pg"
    options="-k $socket -c listen_addresses='' -c shared_buffers=16MB"
    cd "$PWD" 2>/dev/null
}
postgres_start() { postgres_as "$pg/pg_ctl" -D data -s -w -t 60 -l "$PWD/server.log" -o "$options" start || { tail "$PWD/server.log"; fail "the server does not start"; }; }
postgres_stop() { postgres_as "$pg/pg_ctl" -D data -s -w -t 60 -m "$1" stop || true; }
use_postgres() {
    needs setpriv
    postgres_places
    mkdir -p "$socket"
    chown "$pg_user" . "$socket"
    chmod 0755 "$work/scratch"
    postgres_as "$pg/initdb" -D data -k -A trust -U "$pg_user" >/dev/null || fail initdb
    same "$(stat -c '%U %a' data)" "$pg_user 700" "owner of the data"
    trap 'postgres_stop immediate' EXIT
    postgres_start
    postgres_as "$pg/createdb" -h "$socket" postgres 2>/dev/null || true
    postgres_as "$pg/pgbench" -h "$socket" -i -q -s 3 postgres >/dev/null 2>&1 || fail "pgbench -i"
    local said
    said=$(postgres_as "$pg/pgbench" -h "$socket" -c 4 -j 2 -T 10 postgres 2>&1) || { echo "$said"; fail pgbench; }
    same "$(postgres_sums)" t "sums after pgbench"
    # The server dies with transactions under way, and recovers from its log (-n keeps the history).
    postgres_as "$pg/pgbench" -h "$socket" -n -c 4 -j 2 -T 30 postgres >/dev/null 2>&1 &
    sleep 3
    postgres_stop immediate
    wait || true
    postgres_start
    same "$(postgres_sums)" t "sums after a crash of the server"
    postgres_stop fast
    trap - EXIT
    postgres_as "$pg/pg_checksums" -D data --check >/dev/null || fail "checksums"
    figure "as $pg_user: $(sed -n 's/^tps = \([0-9]*\).*/\1/p' <<<"$said") tps with 4 clients, a crash of the server, checksums"
}
after_postgres() {
    postgres_places
    postgres_as "$pg/pg_checksums" -D data --check >/dev/null || fail "checksums"
    trap 'postgres_stop immediate' EXIT
    postgres_start
    same "$(postgres_sums)" t "sums"
    postgres_stop fast
    trap - EXIT
}

# -- source code

repo_git() { git -C "$1" -c user.name=t -c user.email=t@example.org -c gc.auto=0 "${@:2}"; }
use_git() {
    needs git
    sample_tree origin
    # What git does not keep.
    rm -r origin/odd/fifo origin/odd/empty
    repo_git origin init -q
    repo_git origin add -A
    repo_git origin commit -qm one
    local version
    for version in $(seq 8); do
        find origin/cobox-fs -name '*.rs' | head -n 40 | xargs sed -i "1s|^|// $version\n|"
        repo_git origin commit -qam "$version"
    done
    repo_git origin checkout -qb side HEAD~4
    echo side >origin/side
    repo_git origin add side
    repo_git origin commit -qm side
    repo_git origin merge -q -m merge master 2>/dev/null || repo_git origin merge -q -m merge main
    git clone -q --no-local origin clone
    git clone -q origin linked
    repo_git origin gc -q --aggressive --prune=now
    repo_git origin repack -adq
    after_git
    figure "$(repo_git origin rev-list --all --count) commits, clone by copy and by links, merge, gc, fsck"
}
after_git() {
    local which
    for which in origin clone linked; do
        repo_git "$which" fsck --full --strict >"$work/scratch/fsck" 2>&1 || { cat "$work/scratch/fsck"; fail "fsck of $which"; }
        same "$(repo_git "$which" status --porcelain)" "" "status of $which"
        same "$(repo_git "$which" rev-parse HEAD^{tree})" "$(repo_git origin rev-parse HEAD^{tree})" "tree of $which"
    done
    diff -r --exclude=.git --no-dereference origin clone >/dev/null || fail "the clone differs"
}

use_cargo() {
    needs cargo
    mkdir -p crate/src
    cat >crate/Cargo.toml <<'TOML'
[package]
name = "small"
version = "0.1.0"
edition = "2021"
[workspace]
TOML
    echo 'pub fn answer() -> u32 { 42 }
#[test]
fn it_is() { assert_eq!(answer(), 42); }' >crate/src/lib.rs
    echo 'fn main() { println!("{}", small::answer()); }' >crate/src/main.rs
    cd crate
    export CARGO_TARGET_DIR="$PWD/target" CARGO_INCREMENTAL=1
    unset RUSTFLAGS RUSTC_WRAPPER
    cargo build -q --offline
    same "$(cargo run -q --offline)" 42 "what it prints"
    cargo test -q --offline >/dev/null
    cargo build --offline 2>"$work/scratch/cargo"
    ! grep -q Compiling "$work/scratch/cargo" || fail "nothing changed, and it was compiled again"
    sed -i s/42/43/ src/lib.rs
    cargo build --offline 2>"$work/scratch/cargo"
    grep -q Compiling "$work/scratch/cargo" || fail "a change was not noticed"
    same "$(cargo run -q --offline)" 43 "what it prints after a change"
    figure "build, run, test, nothing to do, incremental build; $(du -sm target | cut -f1) MiB"
}
after_cargo() {
    cd crate
    same "$(target/debug/small)" 43 "what it prints"
    CARGO_TARGET_DIR="$PWD/target" cargo build --offline 2>"$work/scratch/cargo"
    ! grep -q Compiling "$work/scratch/cargo" || fail "nothing changed, and it was compiled again"
}

# -- archives

use_tar() {
    sample_tree from
    setfattr -n user.colour -v blue from/docs
    local format=(--xattrs --sparse --numeric-owner)
    tar -C from "${format[@]}" -cf all.tar .
    mkdir to
    tar -C to "${format[@]}" -xpf all.tar
    after_tar
    figure "$(tar -tf all.tar | wc -l) names, $(stat -c %s all.tar) bytes"
}
after_tar() {
    tar -C to --compare -f all.tar || fail "what came out differs from the archive"
    same "$(cd to && find . -printf '%P|%y|%m|%U|%G|%n|%s|%T@|%l\n' | sort | sha256sum)" \
        "$(cd from && find . -printf '%P|%y|%m|%U|%G|%n|%s|%T@|%l\n' | sort | sha256sum)" "modes, owners, times, links"
    same "$(getfattr --only-values -n user.colour to/odd/noise)" blue "attribute"
    [[ $(stat -c %b to/odd/hole) -lt 1000 ]] || fail "the hole was filled"
}

use_rsync() {
    needs rsync
    sample_tree "$native/tree"
    rsync -aHAXS "$native/tree/" copy/
    after_rsync
    # Changes and removals arrive as well, in place and by a temporary file.
    echo more >>"$native/tree/odd/noise"
    rm "$native/tree/odd/dangling"
    rsync -aHAX --delete "$native/tree/" copy/
    rsync -aHAX --inplace --delete "$native/tree/" copy/
    after_rsync
    # And back again: the copy of the copy is the original.
    rsync -aHAX copy/ "$native/back/"
    same "$(rsync -aHAXnci --delete "$native/tree/" "$native/back/")" "" "what came back"
    figure "$(find copy | wc -l) names; second run transfers nothing, by times and by checksums"
}
after_rsync() {
    same "$(rsync -aHAXi --delete "$native/tree/" copy/)" "" "a second run"
    same "$(rsync -aHAXnci --delete "$native/tree/" copy/)" "" "a run with checksums"
}

# -- a disk image

use_image() {
    needs qemu-img qemu-io fio
    qemu-img create -q -f qcow2 disk.qcow2 512M
    local at
    # Two hundred writes, out of order, each with a pattern of its own, some of them over others.
    {
        for n in $(seq 200); do
            at=$(((n * 7919) % 2000 * 262144))
            echo "write -q -P $((n % 250 + 1)) $at 65536"
            [[ $((n % 20)) -ne 0 ]] || echo "flush"
            [[ $((n % 33)) -ne 0 ]] || echo "discard -q $at 65536"
        done
    } | qemu-io -f qcow2 disk.qcow2 >"$work/scratch/qemu-io"
    ! grep -qi 'error\|fail' "$work/scratch/qemu-io" || { cat "$work/scratch/qemu-io"; fail "qemu-io"; }
    qemu-img convert -O raw disk.qcow2 disk.raw
    image_fio --name=write --rw=randwrite --do_verify=1
    after_image
    figure "qcow2 with 200 random writes, check, convert; fio: 64 MiB of 4 KiB random writes through O_DIRECT and a mapping, verified"
}
image_fio() {
    local engine
    for engine in libaio mmap; do
        fio --filename="fio.$engine" --size=64M --bs=4k --ioengine="$engine" --direct=$([[ $engine == libaio ]] && echo 1 || echo 0) \
            --iodepth=16 --fsync=512 --verify=crc32c --verify_fatal=1 --randseed=7 --allrandrepeat=1 --minimal "$@" \
            >"$work/scratch/fio" 2>&1 || { tail -n 20 "$work/scratch/fio"; fail "fio with $engine"; }
    done
}
after_image() {
    qemu-img check -q disk.qcow2 || fail "the image is damaged"
    qemu-img compare -q disk.qcow2 disk.raw || fail "the image differs from its conversion"
    local n=197
    qemu-io -f qcow2 -c "read -P $((n % 250 + 1)) $(((n * 7919) % 2000 * 262144)) 65536" disk.qcow2 |
        grep -q 'Pattern verification failed' && fail "what was written last is not what is read"
    forget_pages fio.libaio fio.mmap
    image_fio --name=write --rw=randwrite --verify_only=1
}

# -- what programs ask of the kernel

use_inotify() {
    needs inotifywait
    mkdir seen
    inotifywait -q -m -e create,modify,close_write,moved_from,moved_to,attrib,delete --format '%e %f' seen >events 2>watching &
    local watcher=$! deadline=$((SECONDS + 20)) event
    # It says nothing when it is ready with -q: a first file is made until it is noticed.
    until grep -q ready events; do
        touch seen/ready
        rm -f seen/ready
        [[ $SECONDS -lt $deadline ]] || fail "nothing is noticed"
        sleep 0.1
    done
    echo text >seen/a
    chmod 600 seen/a
    mv seen/a seen/b
    rm seen/b
    mkdir seen/d
    for event in 'CREATE a' 'MODIFY a' 'CLOSE_WRITE,CLOSE a' 'ATTRIB a' 'MOVED_FROM a' 'MOVED_TO b' 'DELETE b' 'CREATE,ISDIR d'; do
        until grep -qx "$event" events; do
            [[ $SECONDS -lt $deadline ]] || { kill "$watcher"; cat events; fail "no event «$event»"; }
            sleep 0.05
        done
    done
    kill "$watcher"
    figure "create, modify, close, attrib, move, delete"
}

use_locks() {
    python3 "$here/locks.py" "$PWD" || fail "locks"
    figure "flock, fcntl ranges, open-file locks: exclusion, waiting, end with the process"
}

use_names() { python3 "$here/names.py" make "$PWD" && figure "$(find . -printf . | wc -c) names: 255 bytes, not UTF-8, newlines, every byte"; }
after_names() { python3 "$here/names.py" check "$PWD"; }

# A program that runs cannot be written; sticky folders, links in a ring and long paths are as on a disk.
use_modes() {
    needs setpriv
    cp "$(command -v sleep)" runs
    ./runs 20 &
    local runs=$!
    python3 - <<'PY' || fail "a running program could be written"
import errno, sys
try:
    open("runs", "r+b")
    sys.exit(1)
except OSError as e:
    sys.exit(e.errno != errno.ETXTBSY)
PY
    kill "$runs"
    wait "$runs" 2>/dev/null || true
    ln -s ring2 ring1
    ln -s ring1 ring2
    { cat ring1 2>&1 || true; } | grep -q 'Too many levels' || fail "ELOOP"
    mkdir -m 1777 sticky
    touch sticky/roots
    local nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    ! "${nobody[@]}" rm -f sticky/roots 2>/dev/null || fail "a sticky folder let go of another's file"
    "${nobody[@]}" touch sticky/own
    "${nobody[@]}" rm sticky/own
    same "$(stat -c %U sticky/roots)" root "owner"
    local long
    long=$(printf 'd%.0s' $(seq 250))
    (for _ in $(seq 20); do mkdir "$long"; cd "$long"; done)
    ! cat "$PWD/$(printf "$long/%.0s" $(seq 20))f" 2>"$work/scratch/long" || fail "ENAMETOOLONG"
    grep -q 'name too long' "$work/scratch/long" || fail "ENAMETOOLONG"
    mkfifo pipe
    (echo through >pipe &)
    same "$(timeout 10 cat pipe)" through "FIFO"
    python3 -c 'import socket,os; s=socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen(); c=socket.socket(socket.AF_UNIX); c.connect("sock"); a,_=s.accept(); c.send(b"x"); assert a.recv(1)==b"x"'
    mknod null c 1 3
    same "$(stat -c '%F %t,%T' null)" "character special file 1,3" "device node"
    after_modes
    figure "ETXTBSY, ELOOP, ENAMETOOLONG, sticky, FIFO, socket, device node"
}
after_modes() {
    same "$(stat -c '%F|%a' pipe sock null sticky | paste -sd' ')" \
        "fifo|644 socket|755 character special file|644 directory|1777" "kinds and modes"
}

what=${1:?}
case $what in
    has-after) [[ $(type -t "after_$2") == function ]] ;;
    after)
        cd "$mnt/$2"
        "after_$2"
        ;;
    *)
        mkdir "$mnt/$what"
        cd "$mnt/$what"
        "use_$what"
        ;;
esac
