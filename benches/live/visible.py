#!/usr/bin/env python3
"""Seconds from close() on one device's mount until another device's mount shows the content.

  visible.py --bin TARGET/release [--writes 200] [--large 20] [--huge 3] [--many 5000]

Two devices on hosts of their own (network namespaces on a bridge), linked directly and with nobody
else. Needs root, iproute2 and FUSE. Everything is removed at the end.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

PREFIX = f"cobox-visible-{os.getpid()}"
LIMIT_S = 120


def run(*words, check=True):
    return subprocess.run(words, check=check, capture_output=True, text=True)


class Host:
    def __init__(self, number):
        self.name, self.address = f"{PREFIX}-{number}", f"10.78.0.{number}"
        switch = f"{PREFIX}-switch"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", "eth0", "netns", self.name, "type", "veth", "peer", "name", f"port{number}",
            "netns", switch)
        run("ip", "netns", "exec", switch, "ip", "link", "set", f"port{number}", "master", "br0", "up")
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{self.address}/24", "dev", "eth0"],
                      ["link", "set", "eth0", "up"], ["route", "add", "default", "dev", "eth0"]):
            run("ip", "netns", "exec", self.name, "ip", *words)

    def words(self, *words):
        return ["nsenter", f"--net=/run/netns/{self.name}", *words]


class Device:
    def __init__(self, bin_dir, root, number):
        self.host, self.ctl_path = Host(number), os.path.join(bin_dir, "cobox-ctl")
        self.home, self.mount = f"{root}/home{number}", f"{root}/mount{number}"
        os.makedirs(self.mount)
        self.ctl("init", "--label", f"device{number}", "--no-passphrase", "--words-out", f"{root}/words{number}")
        log = open(f"{root}/log{number}", "w")
        self.daemon = subprocess.Popen(self.host.words(self.ctl_path, "daemon", "run"), env=self.env(),
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: self.ctl("daemon", "status", check=False).returncode == 0, "the daemon answers")

    def env(self):
        return {**os.environ, "COBOX_HOME": self.home}

    def ctl(self, *words, check=True):
        said = subprocess.run(self.host.words(self.ctl_path, *words), env=self.env(), capture_output=True, text=True)
        if check and said.returncode != 0:
            sys.exit(f"{words}: {said.stdout}{said.stderr}")
        return said

    def stop(self):
        self.ctl("daemon", "stop", "--force", check=False)
        self.daemon.wait()
        run("fusermount3", "-uzq", self.mount, check=False)


def until(done, what):
    end = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {LIMIT_S} s")
        time.sleep(0.005)


def visible(path, content):
    try:
        if os.stat(path).st_size != len(content):
            return False
        with open(path, "rb") as file:
            return file.read() == content
    except OSError:
        return False


def measure(one, other, size, count, pause_s):
    """Writes files of one size on one mount, one at a time, and waits for each on the other."""
    times = []
    for number in range(count):
        content = os.urandom(size)
        name = f"{size}-{number}"
        with open(f"{one.mount}/{name}", "wb") as file:
            file.write(content)
        closed = time.monotonic()
        while not visible(f"{other.mount}/{name}", content):
            if time.monotonic() > closed + LIMIT_S:
                sys.exit(f"{name} did not become visible")
            time.sleep(0.001)
        times.append(time.monotonic() - closed)
        time.sleep(pause_s)
    return sorted(times)


def tell(what, times):
    def at(share):
        return times[min(len(times) - 1, int(len(times) * share))]
    print(f"{what:<22} {len(times):>4} writes  p50 {at(.5):.3f} s  p95 {at(.95):.3f} s  p99 {at(.99):.3f} s  "
          f"worst {times[-1]:.3f} s", flush=True)


def changes(one, other, count):
    """Renames, deletions and modes, each waited for."""
    times = []
    for number in range(count):
        source, target = f"1024-{number}", f"renamed-{number}"
        os.rename(f"{one.mount}/{source}", f"{one.mount}/{target}")
        start = time.monotonic()
        gone = lambda: os.path.exists(f"{other.mount}/{target}") and not os.path.exists(f"{other.mount}/{source}")
        until(gone, "a rename")
        times.append(time.monotonic() - start)
        os.chmod(f"{one.mount}/{target}", 0o600)
        start = time.monotonic()
        until(lambda: os.stat(f"{other.mount}/{target}").st_mode & 0o777 == 0o600, "a mode")
        times.append(time.monotonic() - start)
        os.unlink(f"{one.mount}/{target}")
        start = time.monotonic()
        until(lambda: not os.path.exists(f"{other.mount}/{target}"), "a deletion")
        times.append(time.monotonic() - start)
    return sorted(times)


def many(one, other, count):
    """A tree of files of 4 KiB: seconds to write it, and from the last close until all of it is on the other."""
    contents = [os.urandom(4096) for _ in range(count)]
    start = time.monotonic()
    for number, content in enumerate(contents):
        folder = f"{one.mount}/many/{number // 100}"
        if number % 100 == 0:
            os.makedirs(folder)
        with open(f"{folder}/{number}", "wb") as file:
            file.write(content)
    closed = time.monotonic()
    for number, content in enumerate(contents):
        path = f"{other.mount}/many/{number // 100}/{number}"
        until(lambda: visible(path, content), path)
    arrived = time.monotonic()
    print(f"{count} files of 4 KiB     written in {closed - start:.2f} s, all there {arrived - closed:.2f} s later", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--writes", type=int, default=200)
    parser.add_argument("--large", type=int, default=20)
    parser.add_argument("--huge", type=int, default=3)
    parser.add_argument("--many", type=int, default=5000)
    args = parser.parse_args()
    root = tempfile.mkdtemp(prefix="cobox-visible-")
    switch = f"{PREFIX}-switch"
    run("ip", "netns", "add", switch)
    run("ip", "netns", "exec", switch, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    run("ip", "netns", "exec", switch, "ip", "link", "set", "br0", "up")
    devices = []
    try:
        devices = [Device(args.bin, root, 1), Device(args.bin, root, 2)]
        one, other = devices
        one.ctl("folder", "create", "club")
        code = one.ctl("folder", "invite", "club", "--role", "write").stdout.splitlines()[0]
        other.ctl("folder", "join", code)
        for device in devices:
            device.ctl("mount", "club", device.mount)
        load = os.getloadavg()[0]
        tell("1 KiB", measure(one, other, 1024, args.writes, 0.05))
        tell("rename, chmod, unlink", changes(one, other, min(args.writes, 60)))
        tell("1 MiB", measure(one, other, 1 << 20, args.large, 0.2))
        tell("100 MiB", measure(one, other, 100 << 20, args.huge, 1))
        many(one, other, args.many)
        print(f"load {load:.1f} at the beginning, {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} processors")
    finally:
        for device in devices:
            device.stop()
        names = run("ip", "netns", "list").stdout.split()
        for name in names:
            if name.startswith(PREFIX):
                run("ip", "netns", "del", name, check=False)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
