"""Locks between processes, in the folder given: flock(2), fcntl(2) ranges and open-file locks.
Each child says on a pipe what it got; nothing waits by time alone. Called by programs.sh."""
import errno
import fcntl
import os
import signal
import struct
import sys

PATIENCE_SECONDS = 30
F_OFD_SETLK, F_OFD_SETLKW = 37, 38


def in_child(action):
    """Runs it in another process that stays until killed; returns (pid, what it returned)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            said = action() or "got"
        except OSError as error:
            said = errno.errorcode[error.errno]
        os.write(write, said.encode())
        os.close(write)
        signal.pause()
        os._exit(0)
    os.close(write)
    return pid, read


def said(read):
    text = os.read(read, 100).decode()
    os.close(read)
    return text


def end(pid, how=signal.SIGKILL):
    os.kill(pid, how)
    os.waitpid(pid, 0)


def expect(got, wanted, what):
    if got not in wanted:
        print(f"{what}: {got}, expected {wanted}")
        sys.exit(1)


def opened(path="f", mode="r+b"):
    return open(path, mode, buffering=0)


def flock_try(kind, keep=[]):
    keep.append(opened())
    fcntl.flock(keep[-1], kind | fcntl.LOCK_NB)


def range_try(kind, length, start, keep=[]):
    keep.append(opened())
    fcntl.lockf(keep[-1], kind | fcntl.LOCK_NB, length, start)


def ofd(file, command, kind, start, length):
    # struct flock of fcntl(2): type, whence, start, length, pid
    fcntl.fcntl(file, command, struct.pack("hhqqi4x", kind, 0, start, length, 0))


def one(action, wanted, what):
    pid, read = in_child(action)
    expect(said(read), wanted, what)
    end(pid)


def exclusion(lock, kinds, what):
    """Shared with shared, nothing with exclusive; gone with the process that held it."""
    shared, exclusive = kinds
    busy = {"EAGAIN", "EACCES"}
    holder, read = in_child(lambda: lock(shared))
    expect(said(read), {"got"}, f"{what}: the first shared lock")
    one(lambda: lock(shared), {"got"}, f"{what}: shared beside shared")
    one(lambda: lock(exclusive), busy, f"{what}: exclusive beside shared")
    end(holder)
    holder, read = in_child(lambda: lock(exclusive))
    expect(said(read), {"got"}, f"{what}: exclusive after its holder was killed")
    one(lambda: lock(shared), busy, f"{what}: shared beside exclusive")
    end(holder)


def waiting(hold, wait, what):
    """A process that waits for a lock gets it when the holder is killed, not before."""
    holder, read = in_child(hold)
    expect(said(read), {"got"}, f"{what}: the holder")
    waiter, read = in_child(wait)
    state = ""
    while state not in ("S", "D"):
        with open(f"/proc/{waiter}/stat") as stat:
            state = stat.read().rsplit(")", 1)[1].split()[0]
    os.set_blocking(read, False)
    try:
        early = os.read(read, 100)
    except BlockingIOError:
        early = None
    os.set_blocking(read, True)
    if early is not None:
        print(f"{what}: did not wait, {early}")
        sys.exit(1)
    end(holder)
    expect(said(read), {"got"}, f"{what}: the waiter")
    end(waiter)


def main():
    os.chdir(sys.argv[1])
    signal.alarm(PATIENCE_SECONDS)
    with open("f", "wb") as file:
        file.write(bytes(1000))
    kinds = (fcntl.LOCK_SH, fcntl.LOCK_EX)
    exclusion(flock_try, kinds, "flock")
    exclusion(lambda kind: range_try(kind, 100, 100), kinds, "fcntl")

    holder, read = in_child(lambda: range_try(fcntl.LOCK_EX, 100, 100))
    expect(said(read), {"got"}, "a range")
    one(lambda: range_try(fcntl.LOCK_EX, 100, 200), {"got"}, "the range behind it")
    one(lambda: range_try(fcntl.LOCK_EX, 100, 0), {"got"}, "the range before it")
    one(lambda: range_try(fcntl.LOCK_EX, 2, 199), {"EAGAIN", "EACCES"}, "an overlapping range")
    file = opened()
    asked = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 150, 1, 0))
    kind, _, start, length, pid = struct.unpack("hhqqi4x", asked)
    expect((kind, start, length, pid), [(fcntl.F_WRLCK, 100, 100, holder)], "who holds it")
    end(holder)

    one(lambda: ofd(opened(), F_OFD_SETLK, fcntl.F_WRLCK, 0, 10), {"got"}, "an open-file lock")
    a, b = opened(), opened()
    ofd(a, F_OFD_SETLK, fcntl.F_WRLCK, 0, 10)
    try:
        ofd(b, F_OFD_SETLK, fcntl.F_WRLCK, 5, 10)
        expect("got", {"EAGAIN"}, "two open files of one process")
    except OSError as error:
        expect(errno.errorcode[error.errno], {"EAGAIN", "EACCES"}, "two open files of one process")
    a.close()
    ofd(b, F_OFD_SETLK, fcntl.F_WRLCK, 5, 10)
    b.close()

    keep = []

    def wait_flock():
        keep.append(opened())
        fcntl.flock(keep[-1], fcntl.LOCK_EX)

    def wait_range():
        keep.append(opened())
        fcntl.lockf(keep[-1], fcntl.LOCK_EX, 10, 0)

    waiting(lambda: flock_try(fcntl.LOCK_EX), wait_flock, "flock")
    waiting(lambda: range_try(fcntl.LOCK_EX, 10, 0), wait_range, "fcntl")


main()
