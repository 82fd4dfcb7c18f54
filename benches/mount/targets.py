"""What is measured: the native file system, bindfs, gocryptfs and CoBox.

A target is set up once per repetition in a folder of its own, mounted and remounted, and removed. Its
daemon runs in the foreground as a child of this program, which ends it by its process id alone.
"""

import os
import shutil
import subprocess
import tempfile

import machine


class Target:
    """A folder to work in (`mnt`) and the folder that holds what it stores (`store`)."""

    name = ""
    program = None  # looked for in PATH; None needs no program
    what = ""

    def __init__(self, base):
        self.work = tempfile.mkdtemp(prefix=f"{self.name}-", dir=base)
        self.mnt = self._folder("mnt")
        self.store = self._folder("store")
        self.daemon = None
        self.peak_mib = 0.0
        self.log = open(os.path.join(self.work, "daemon.log"), "ab")

    @classmethod
    def version(cls):
        """What the program says of itself; None when it is not installed, '' when none is needed."""
        # What follows a semicolon is of the libraries it was built with.
        said = machine.version([cls.program, "--version"]) if cls.program else ""
        return said and said.split(";")[0]

    def make(self):
        """Makes the store."""

    def mount(self):
        """Mounts it."""

    def unmount(self):
        machine.unmount(self.mnt)

    def remount(self):
        """Empties the daemon's caches and the kernel's pages of the mount."""
        self.sample()
        self.unmount()
        self._join()
        self.mount()

    def cpu_s(self):
        return machine.process_usage(self.daemon.pid)[1] if self.daemon else 0.0

    def sample(self):
        """Takes the daemon's peak memory so far."""
        if self.daemon:
            self.peak_mib = max(self.peak_mib, machine.process_usage(self.daemon.pid)[0])

    def remove(self):
        """Unmounts, ends the daemon and removes all files, whatever happened before."""
        try:
            self.sample()
            self.unmount()
        except Exception as error:  # what remains is done all the same
            machine.say(f"{self.name}: {error}")
        if self.daemon:
            machine.end(self.daemon)
            self.daemon = None
        machine.unmount(self.mnt)
        self.log.close()
        machine.remove(self.work)

    def _folder(self, name):
        path = os.path.join(self.work, name)
        os.mkdir(path)
        return path

    def _start(self, words, **environment):
        # A session of its own: an interrupt at the terminal ends this program, which then unmounts.
        self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                       env={**os.environ, **environment}, start_new_session=True)

    def _await_mount(self):
        machine.wait_until(f"{self.name} mounts", lambda: machine.is_mounted(self.mnt), self.daemon)

    def _join(self):
        if self.daemon:
            try:
                self.daemon.wait(60)
            except subprocess.TimeoutExpired:
                machine.end(self.daemon)
            self.daemon = None


class Native(Target):
    name = "native"
    what = "the file system below, without FUSE"

    def __init__(self, base):
        super().__init__(base)
        self.store = self.mnt

    def unmount(self):
        pass


class Bindfs(Target):
    name = program = "bindfs"
    what = "passes through, unencrypted: what FUSE alone costs"

    def mount(self):
        self._start(["bindfs", "-f", self.store, self.mnt])
        self._await_mount()


class Gocryptfs(Target):
    name = program = "gocryptfs"
    what = "AES-256-GCM, a file for a file"

    def make(self):
        self.password = os.path.join(self.work, "password")
        with open(self.password, "w") as file:
            file.write("a password\n")
        # The cheapest password hashing: it is paid at each mount and is not what is measured.
        machine.run(["gocryptfs", "-init", "-q", "-scryptn", "10", "-passfile", self.password, self.store])

    def mount(self):
        self._start(["gocryptfs", "-fg", "-q", "-passfile", self.password, self.store, self.mnt])
        self._await_mount()


class Cobox(Target):
    name = "CoBox"
    what = "one member, no seeder"
    # A file that holds room for deletions on a full disk, and no data.
    reserve = "reserve"

    @staticmethod
    def ctl_program():
        target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cobox", "target")
        return os.path.join(os.environ.get("COBOX_BIN") or os.path.join(target, "release"), "cobox-ctl")

    @classmethod
    def version(cls):
        said = machine.version([cls.ctl_program(), "--version"])
        return said and said.removeprefix("cobox-ctl ")

    def _ctl(self, *words):
        return machine.run([self.ctl_program(), *words], env={**os.environ, "COBOX_HOME": self.store, "COBOX_NETWORK": "loopback"})

    def make(self):
        self._ctl("init", "--label", "bench", "--words-out", os.path.join(self.work, "words"), "--no-passphrase")

    def mount(self):
        first = not os.path.exists(os.path.join(self.work, "mounted"))
        self._start([self.ctl_program(), "daemon", "run"], COBOX_HOME=self.store, COBOX_NETWORK="loopback")
        machine.wait_until("coboxd answers", self._answers, self.daemon)
        if first:
            self._ctl("folder", "create", "bench")
            self._ctl("mount", "bench", self.mnt)
            open(os.path.join(self.work, "mounted"), "w").close()
        # Otherwise the daemon mounts by itself what was mounted when it ended.
        self._await_mount()

    def unmount(self):
        if self.daemon and self.daemon.poll() is None:
            self._ctl("daemon", "stop", "--force")

    def _answers(self):
        return subprocess.run([self.ctl_program(), "daemon", "status"], env={**os.environ, "COBOX_HOME": self.store, "COBOX_NETWORK": "loopback"},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30).returncode == 0


ALL = {target.name.lower(): target for target in (Native, Bindfs, Gocryptfs, Cobox)}


def fsyncs_that_reach_the_disk(target, count=20):
    """How many sync calls the daemon makes while a program writes and calls fsync `count` times.

    None where it cannot be seen: no daemon, no strace, or no right to trace.
    """
    if not target.daemon or not shutil.which("strace"):
        return None
    calls = "fsync,fdatasync,sync,syncfs,sync_file_range,msync"
    trace = os.path.join(target.work, "trace")
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-e", f"trace={calls}", "-o", trace, "-p", str(target.daemon.pid)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True)
    try:
        machine.wait_until("strace attaches", lambda: _traced(target.daemon.pid), tracer, limit_s=20)
        machine.timed(lambda: _write_and_sync(os.path.join(target.mnt, "synced"), count), limit_s=60)
    except (RuntimeError, TimeoutError) as error:
        machine.say(f"{target.name}: fsync was not traced: {error}")
        return None
    finally:
        machine.end(tracer)
    with open(trace) as lines:
        # A call that another thread's line interrupts is written in two parts, with `resumed` in the second.
        return sum("sync" in line and "(" in line and "resumed" not in line for line in lines)


def _traced(pid):
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/status") as status:
                if any(line.split() == ["TracerPid:", "0"] for line in status):
                    return False
        except FileNotFoundError:
            pass  # the thread ended meanwhile
    return True


def _write_and_sync(path, count):
    with open(path, "wb", buffering=0) as file:
        for _ in range(count):
            file.write(os.urandom(5000))
            os.fsync(file.fileno())
