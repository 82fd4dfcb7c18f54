"""The workloads: what is timed, what makes it ready untimed, and what checks the bytes afterwards.

Each does a fixed amount of work and makes what it needs itself, so that any of them can run alone.
"""

import os
import random
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Callable, Optional

from inputs import NEEDLE, PAGE
from machine import MIB, run, settle

SMALL_DIRECTORIES = 50
SEED_SEQUENTIAL, SEED_RANDOM, SEED_BATCH, SEED_SMALL, SEED_PAGES = range(1, 6)


@dataclass
class Place:
    """A mounted folder and what is done in it."""

    mnt: str
    store: str
    sizes: object
    blocks: object
    source: object
    limit_s: float

    def path(self, *names):
        return os.path.join(self.mnt, *names)

    def run(self, *words, **options):
        return run(words, limit_s=self.limit_s, cwd=self.mnt, **options)

    def has(self, name):
        return os.path.lexists(self.path(name))

    def flush(self):
        """What a program can do to have a whole tree on the disk. The kernel has no way to tell a FUSE
        daemon of `sync`, but all of them pass on the `fsync` of a file."""
        with _opened(self.path("flushed"), os.O_WRONLY | os.O_CREAT) as file:
            os.write(file, b"all before this")
            os.fsync(file)
        settle(self.mnt)
        settle(self.store)


@dataclass(frozen=True)
class Workload:
    key: str
    title: Callable
    peer: str
    aim: float
    run: Callable
    prepare: Optional[Callable] = None
    cold: bool = False  # caches are emptied after `prepare`
    warm: Optional[Callable] = None  # untimed, after that
    check: Optional[Callable] = None  # untimed, caches emptied before it


@contextmanager
def _opened(path, flags):
    file = os.open(path, flags, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _same(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what} differs from what was written")


# ---- one large file


def _write_file(path, blocks):
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
        for block in blocks:
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(file, rest):]
        os.fsync(file)


def _compare_file(path, blocks):
    with open(path, "rb", buffering=0) as file:
        for at, block in enumerate(blocks):
            found = file.read(MIB)
            while len(found) < MIB and (more := file.read(MIB - len(found))):
                found += more
            _same(found, block, f"MiB {at}")
        _same(file.read(1), b"", "the end")


def _sequential(place):
    return place.blocks.get(SEED_SEQUENTIAL, place.sizes.sequential_mib)


def write_sequential(place):
    _write_file(place.path("sequential"), _sequential(place))


def ensure_sequential(place):
    if not place.has("sequential"):
        write_sequential(place)


def read_sequential(place):
    _compare_file(place.path("sequential"), _sequential(place))


# ---- random access to another


def _ensure_random(name, seed):
    def ensure(place):
        if not place.has(name):
            _write_file(place.path(name), place.blocks.get(seed, place.sizes.random_mib))
    return ensure


def read_random(place):
    blocks, order = place.blocks.get(SEED_RANDOM, place.sizes.random_mib), random.Random(7)
    with _opened(place.path("random"), os.O_RDONLY) as file:
        for _ in range(place.sizes.random_reads):
            block = order.randrange(len(blocks))
            at = order.randrange(MIB // PAGE) * PAGE
            _same(os.pread(file, PAGE, block * MIB + at), blocks[block][at:at + PAGE], f"page {at // PAGE} of MiB {block}")


def _overwrites(place, count):
    """Offsets and new pages: the same on each call."""
    order = random.Random(9)
    pages = place.blocks.get(SEED_PAGES, count * PAGE // MIB + 1)
    for index in range(count):
        at = index * PAGE % MIB
        yield order.randrange(place.sizes.random_mib * MIB // PAGE) * PAGE, pages[index * PAGE // MIB][at:at + PAGE]


def overwrite_synced(place):
    with _opened(place.path("random"), os.O_WRONLY) as file:
        for at, page in _overwrites(place, place.sizes.synced_overwrites):
            os.pwrite(file, page, at)
            os.fsync(file)


def overwrite_batch(place):
    with _opened(place.path("batch"), os.O_WRONLY) as file:
        for at, page in _overwrites(place, place.sizes.overwrites):
            os.pwrite(file, page, at)
        os.fsync(file)


def _check_overwritten(name, seed, count):
    def check(place):
        expected = [bytearray(block) for block in place.blocks.get(seed, place.sizes.random_mib)]
        for at, page in _overwrites(place, count(place.sizes)):
            expected[at // MIB][at % MIB:at % MIB + PAGE] = page
        _compare_file(place.path(name), expected)
    return check


# ---- many small files


def _small(place):
    """Name and content of each small file."""
    blocks = place.blocks.get(SEED_SMALL, place.sizes.small_files * PAGE // MIB + 1)
    for index in range(place.sizes.small_files):
        at = index * PAGE % MIB
        yield f"small/{index % SMALL_DIRECTORIES:02}/{index:05}", blocks[index * PAGE // MIB][at:at + PAGE]


def create_small(place):
    os.mkdir(place.path("small"))
    for index in range(SMALL_DIRECTORIES):
        os.mkdir(place.path("small", f"{index:02}"))
    for name, content in _small(place):
        with _opened(place.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            os.write(file, content)
    place.flush()


def ensure_small(place):
    if not place.has("small"):
        create_small(place)


def read_small(place):
    for name, content in _small(place):
        with _opened(place.path(name), os.O_RDONLY) as file:
            _same(os.read(file, 2 * PAGE), content, name)


def walk_small(place):
    found = place.run("find", "small", "-type", "f", "-printf", "%s %m %T@\\n")
    _same(found.count(f"{PAGE} 644 "), place.sizes.small_files, "the walk")


def delete_small(place):
    place.run("rm", "-rf", "small")
    place.flush()


def check_deleted(place):
    _same(place.has("small"), False, "the folder that was removed")


# ---- a source tree


def untar(place):
    os.mkdir(place.path("src"))
    place.run("tar", "xzf", place.source.archive, "-C", "src", "--no-same-owner")
    place.flush()


def ensure_untarred(place):
    if not place.has("src"):
        untar(place)


def copy_in(place):
    place.run("cp", "-a", place.source.tree, "copied")
    place.flush()


def _check_tree(name):
    def check(place):
        place.run("diff", "-r", "--no-dereference", "--exclude=.git", place.source.tree, name)
    return check


def _git(place, *words):
    # No configuration of this machine, and no work in the background.
    settings = ("safe.directory=*", "gc.auto=0", "user.name=Bench", "user.email=bench@example.org", "init.defaultBranch=main")
    return place.run("git", "-C", "src", *(part for each in settings for part in ("-c", each)), *words,
                     env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"})


def git_commit(place):
    _git(place, "init", "-q")
    # A tree may hold a .gitignore of its own.
    _git(place, "add", "-A", "-f")
    _git(place, "commit", "-q", "-m", "all")


def ensure_committed(place):
    ensure_untarred(place)
    if not place.has("src/.git"):
        git_commit(place)


def git_status(place):
    _same(_git(place, "status", "--porcelain"), "", "git's working tree")


def check_git(place):
    _git(place, "fsck", "--full", "--strict")


def grep(place):
    found = place.run("grep", "-rlF", "--exclude-dir=.git", NEEDLE, "src", codes=(0, 1))
    _same(sorted(found.splitlines()), [f"src/{name}" for name in place.source.with_needle], "what grep found")


# ---- a database


def _sqlite(journal):
    def write(place):
        with closing(sqlite3.connect(place.path(f"{journal}.db"), isolation_level=None)) as database:
            mode = database.execute(f"pragma journal_mode = {journal}").fetchone()[0]
            _same(mode, journal, "the journal mode")
            # In WAL mode only `full` syncs at each commit.
            database.execute("pragma synchronous = full")
            database.execute("create table entry (id integer primary key, account integer, text text)")
            database.execute("create index by_account on entry (account)")
            order = random.Random(11)
            for _ in range(place.sizes.transactions):
                database.execute("begin")
                database.executemany("insert into entry (account, text) values (?, ?)",
                                     [(order.randrange(1000), order.randbytes(50).hex()) for _ in range(5)])
                database.execute("update entry set account = account + 1 where id = ?", (order.randrange(1, 6),))
                database.execute("commit")
    return write


def _check_sqlite(journal):
    def check(place):
        with closing(sqlite3.connect(place.path(f"{journal}.db"))) as database:
            _same(database.execute("pragma integrity_check").fetchone()[0], "ok", "the database")
            _same(database.execute("select count(*) from entry").fetchone()[0], 5 * place.sizes.transactions, "the count of rows")
    return check


ALL = (
    Workload("seq_write", lambda s: f"sequential write and fsync, {s.sequential_mib} MiB", "gocryptfs", 1.0, write_sequential),
    Workload("seq_read_cold", lambda s: f"sequential read, cold, {s.sequential_mib} MiB", "gocryptfs", 1.0, read_sequential,
             prepare=ensure_sequential, cold=True),
    Workload("seq_read_warm", lambda s: f"sequential read, warm, {s.sequential_mib} MiB", "bindfs", 1.0, read_sequential,
             prepare=ensure_sequential, warm=read_sequential),
    Workload("rand_read_cold", lambda s: f"{s.random_reads:,} random 4K reads of {s.random_mib} MiB, cold", "gocryptfs", 1.0,
             read_random, prepare=_ensure_random("random", SEED_RANDOM), cold=True),
    Workload("overwrite_synced", lambda s: f"{s.synced_overwrites:,} random 4K overwrites, fsync each", "gocryptfs", 1.5,
             overwrite_synced, prepare=_ensure_random("random", SEED_RANDOM),
             check=_check_overwritten("random", SEED_RANDOM, lambda s: s.synced_overwrites)),
    Workload("overwrite_batch", lambda s: f"{s.overwrites:,} random 4K overwrites, one fsync", "gocryptfs", 1.5,
             overwrite_batch, prepare=_ensure_random("batch", SEED_BATCH),
             check=_check_overwritten("batch", SEED_BATCH, lambda s: s.overwrites)),
    Workload("small_create", lambda s: f"{s.small_files:,} files of 4 KiB made", "gocryptfs", 3.0, create_small),
    Workload("small_read_warm", lambda s: f"{s.small_files:,} files of 4 KiB read, warm", "bindfs", 1.0, read_small,
             prepare=ensure_small, cold=True, warm=read_small),
    Workload("stat_walk_warm", lambda s: f"{s.small_files:,} files listed with their attributes, warm", "bindfs", 1.0, walk_small,
             prepare=ensure_small, warm=walk_small),
    Workload("small_delete", lambda s: f"{s.small_files:,} files removed", "gocryptfs", 3.0, delete_small,
             prepare=ensure_small, check=check_deleted),
    Workload("untar", lambda s: "tar x of a source tree", "gocryptfs", 3.0, untar, check=_check_tree("src")),
    Workload("git_commit", lambda s: "git init, add, commit of it", "gocryptfs", 1.5, git_commit,
             prepare=ensure_untarred, check=check_git),
    Workload("git_status_cold", lambda s: "git status, cold", "gocryptfs", 1.5, git_status, prepare=ensure_committed, cold=True),
    Workload("grep_cold", lambda s: "grep -r, cold", "gocryptfs", 1.5, grep, prepare=ensure_untarred, cold=True),
    Workload("copy_in", lambda s: "cp -a of the tree into the mount", "gocryptfs", 3.0, copy_in, check=_check_tree("copied")),
    Workload("sqlite_delete", lambda s: f"SQLite, DELETE journal, {s.transactions:,} transactions", "gocryptfs", 1.5,
             _sqlite("delete"), check=_check_sqlite("delete")),
    Workload("sqlite_wal", lambda s: f"SQLite, WAL, {s.transactions:,} transactions", "gocryptfs", 1.5,
             _sqlite("wal"), check=_check_sqlite("wal")),
)
