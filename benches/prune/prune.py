#!/usr/bin/env python3
"""What `prune` costs in a large folder of small packs, half of which nobody needs, and whoever works in it meanwhile.

  prune.py --bin TARGET/release --seeder PROGRAM [--mib 2048] [--runs 9]

A folder is written in many cuts of two files each, one of which is removed. Then `prune --dry-run` and `prune` are run
until there is nothing left to do, each beside a program that lists, reads and writes in the mount. Printed are, for each
run, its time, the daemon's processor time, how much its memory grew and came to, what it read from the disk, and how long
the program beside it waited at most. Everything happens in one temporary folder and over loopback, and is removed at the
end; all that is left is compared.
"""
import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "restore"))
from restore import Device, Seeder, load  # noqa: E402

FILE_BYTES = 256 << 10
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Daemon:
    """Figures of the daemon's process."""

    def __init__(self, pid):
        self.pid = pid

    def processor_s(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def mib(self, name):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) >> 10
        return 0

    def read_mib(self):
        for line in pathlib.Path(f"/proc/{self.pid}/io").read_text(encoding="ascii").splitlines():
            if line.startswith("rchar"):
                return int(line.split()[1]) >> 20
        return 0

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")


class Probe(threading.Thread):
    """A program that lists a directory, reads a file and writes one, with a sync, again and again."""

    def __init__(self, mount, names):
        super().__init__(daemon=True)
        self.mount, self.names, self.ended = mount, names, threading.Event()
        self.waits = {"list": [], "read": [], "write": []}

    def timed(self, what, work):
        started = time.monotonic()
        work()
        self.waits[what].append(time.monotonic() - started)

    def run(self):
        number = 0
        while not self.ended.is_set():
            number += 1
            name = self.names[number * 7919 % len(self.names)]
            self.timed("list", lambda: os.stat(f"{self.mount}/{name}") and os.listdir(f"{self.mount}/beside"))
            self.timed("read", lambda: pathlib.Path(f"{self.mount}/{name}").read_bytes())
            self.timed("write", self.write)
            time.sleep(0.02)

    def write(self):
        with open(f"{self.mount}/beside/file", "wb") as file:
            file.write(os.urandom(4096))
            os.fsync(file.fileno())

    def worst(self):
        def of(list_s):
            list_s = sorted(list_s) or [0]
            return f"{list_s[len(list_s) // 2] * 1e3:.0f}/{list_s[-1] * 1e3:.0f}"
        return ", ".join(f"{what} {of(list_s)}" for what, list_s in self.waits.items()) + " ms (median/worst)"


def measured(what, daemon, device, names, work):
    daemon.forget_peak()
    before = (time.monotonic(), daemon.processor_s(), daemon.read_mib(), daemon.mib("VmRSS"), load())
    probe = Probe(device.mount, names)
    probe.start()
    said = work()
    probe.ended.set()
    probe.join()
    print(f"{what}: {time.monotonic() - before[0]:.1f} s, processor {daemon.processor_s() - before[1]:.1f} s, read "
          f"{daemon.read_mib() - before[2]} MiB, memory {before[3]} MiB before, {daemon.mib('VmHWM')} MiB at most; "
          f"load {before[4]} to {load()}; {probe.worst()}", flush=True)
    return said


def fill(device, mib):
    """Two files a cut, so that each pack is small; then one of each two is removed."""
    kept, gone = {}, []
    os.makedirs(f"{device.mount}/beside")
    pause = 0.08
    for number in range((mib << 20) // (2 * FILE_BYTES)):
        if number % 500 == 0:
            os.makedirs(f"{device.mount}/{number // 500}")
        for kind in "ab":
            name, content = f"{number // 500}/{kind}{number}", os.urandom(FILE_BYTES)
            with open(f"{device.mount}/{name}", "wb") as file:
                file.write(content)
            if kind == "a":
                kept[name] = hash(content)
            else:
                gone.append(name)
        time.sleep(pause)
    device.ctl("wait", "club", "--copies", "1", "--timeout", "600s")
    for name in gone:
        os.unlink(f"{device.mount}/{name}")
    device.ctl("wait", "club", "--copies", "1", "--timeout", "600s")
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--seeder", required=True)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--dir")
    given = parser.parse_args()
    root = tempfile.mkdtemp(prefix="cobox-prune-", dir=given.dir)
    seeder = Seeder(given.seeder, f"{root}/seeder")
    device = Device(given.bin, root, "device")
    try:
        device.ctl("init", "--label", "device", "--no-passphrase", "--words-out", f"{root}/words")
        device.start()
        device.ctl("folder", "create", "club")
        device.ctl("seeder", "add", "club", seeder.address(), "--quota", "100G")
        device.ctl("mount", "club", device.mount)
        started = time.monotonic()
        kept = fill(device, given.mib)
        names = list(kept)
        daemon = Daemon(device.daemon.pid)
        print(f"{given.mib} MiB written in {time.monotonic() - started:.0f} s; load {load()}", flush=True)
        measured("nothing, 10 s", daemon, device, names, lambda: time.sleep(10))
        for number in range(given.runs):
            looked = json.loads(measured("prune --dry-run", daemon, device, names,
                                         lambda: device.ctl("prune", "club", "--dry-run", "--json")))
            print({name: looked[name] for name in ("packs", "pack_bytes", "live_bytes", "dead_packs", "half_dead_packs",
                                                   "rewrite_packs", "copied_bytes", "comes_back_bytes")}, flush=True)
            if looked["comes_back_bytes"] == 0 and number > 0:
                break
            done = json.loads(measured("prune", daemon, device, names, lambda: device.ctl("prune", "club", "--json")))
            print({name: done[name] for name in ("state", "released_packs", "merged_packs", "merged_bytes")}, flush=True)
            if done["state"] == "nothing":
                break
        for name, was in kept.items():
            if hash(pathlib.Path(f"{device.mount}/{name}").read_bytes()) != was:
                sys.exit(f"{name} is not what it was")
        print("all that is left is what it was")
    finally:
        device.kill()
        seeder.stop()
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
