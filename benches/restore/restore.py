#!/usr/bin/env python3
"""Restores 5,000 small files and a large one from a seeder, and the same from a restic repository.

  restore.py --bin TARGET/release --seeder PROGRAM [--files 5000] [--large-mib 1024] [--reps 1] [--only NAME]

CoBox: the device is gone; 24 words and the seeder's address are there. Measured until the folder is mounted, and until
everything was copied out of the mount. restic: `restic restore` from a repository in a local folder, without a network
and with its cache gone. Syncthing: another device has everything and has read it; measured from the moment at which
the new device knows the folder until all has arrived, over loopback. Everything happens in one temporary folder and over loopback, and is removed at the end.
Contents are compared after each restore.
"""
import argparse
import filecmp
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

LIMIT_S = 600


def load():
    with open("/proc/loadavg", encoding="ascii") as file:
        return file.read().split()[0]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Seeder:
    def __init__(self, program, data):
        self.program, self.data = program, data
        self.log = open(f"{data}.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            [program, "run", "--data", data, "--accept", "any", "--listen", f"/ip4/127.0.0.1/tcp/{free_port()}"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def address(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            said = subprocess.run([self.program, "address", "--data", self.data], capture_output=True, text=True,
                                  check=False)
            if said.returncode == 0 and said.stdout.strip():
                return said.stdout.strip().splitlines()[-1]
            time.sleep(0.05)
        sys.exit("the seeder has no address")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Device:
    """A home and a mount; its daemon is a child of this program."""

    def __init__(self, bin_dir, root, name):
        self.program = os.path.join(bin_dir, "cobox-ctl")
        self.home, self.mount, self.daemon = f"{root}/{name}", f"{root}/{name}-mount", None
        os.makedirs(self.mount)
        self.log = open(f"{root}/{name}.log", "w", encoding="utf-8")

    def env(self):
        return {**os.environ, "COBOX_HOME": self.home, "COBOX_NETWORK": "loopback"}

    def ctl(self, *words):
        said = subprocess.run([self.program, *words], env=self.env(), capture_output=True, text=True, check=False,
                              timeout=LIMIT_S)
        if said.returncode != 0:
            sys.exit(f"{words}: {said.stdout}{said.stderr}")
        return said.stdout

    def start(self):
        self.daemon = subprocess.Popen([self.program, "daemon", "run"], env=self.env(), stdin=subprocess.DEVNULL,
                                       stdout=self.log, stderr=self.log)
        end = time.monotonic() + 60
        words = [self.program, "daemon", "status"]
        while subprocess.run(words, env=self.env(), capture_output=True, check=False).returncode != 0:
            if time.monotonic() > end:
                sys.exit("the daemon does not answer")
            time.sleep(0.02)

    def kill(self):
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None
        subprocess.run(["fusermount3", "-uzq", self.mount], check=False, capture_output=True)


def make(root, files, large_bytes):
    """A folder of small files of 1 to 15 KiB in 50 directories, and one with a large file; nothing compresses."""
    for number in range(files):
        at = f"{root}/small/{number % 50}"
        os.makedirs(at, exist_ok=True)
        with open(f"{at}/{number}", "wb") as file:
            file.write(os.urandom(1024 + number * 7919 % (14 * 1024)))
    os.makedirs(f"{root}/large")
    with open(f"{root}/large/film", "wb") as file:
        for _ in range(large_bytes >> 20):
            file.write(os.urandom(1 << 20))


def size(root):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(root) for name in names)


def compare(one, other):
    for at, _, names in os.walk(one):
        for name in names:
            path = os.path.join(at, name)
            if not filecmp.cmp(path, os.path.join(other, os.path.relpath(path, one)), shallow=False):
                sys.exit(f"{path} differs after the restore")


def copy(source, target):
    subprocess.run(["cp", "-a", source, target], check=True)


def tell(what, size_bytes, seconds, more=""):
    print(f"{what:<40} {seconds:>7.1f} s {size_bytes / 1e6 / seconds:>7.0f} MB/s{more}   load {load()}", flush=True)


def cobox(options, root, source):
    seeder = Seeder(options.seeder, f"{root}/seeder")
    devices = []
    try:
        address = seeder.address()
        first = Device(options.bin, root, "first")
        devices.append(first)
        first.ctl("init", "--label", "first", "--no-passphrase", "--words-out", f"{root}/words")
        first.start()
        first.ctl("folder", "create", "club")
        first.ctl("mount", "club", first.mount)
        first.ctl("seeder", "add", "club", address, "--quota", "20G")
        for what in ("small", "large"):
            copy(f"{source}/{what}", first.mount)
        first.ctl("wait", "club", "--copies", "1", "--timeout", f"{LIMIT_S}s")
        first.kill()
        shutil.rmtree(first.home)
        for what in ("small", "large"):
            # A new device each time, which has nothing.
            device = Device(options.bin, root, f"again-{what}")
            devices.append(device)
            started = time.monotonic()
            device.ctl("recover", "--words-file", f"{root}/words", "--seeder", address, "--label", what,
                       "--no-passphrase")
            device.ctl("mount", "club", device.mount)
            mounted = time.monotonic() - started
            copy(f"{device.mount}/{what}", f"{root}/out-{what}")
            seconds = time.monotonic() - started
            compare(f"{source}/{what}", f"{root}/out-{what}")
            tell(f"CoBox, {what}", size(f"{source}/{what}"), seconds, f", mounted after {mounted:.1f} s")
            subprocess.run([device.program, "daemon", "stop", "--force"], env=device.env(), check=False,
                           capture_output=True)
            device.kill()
            shutil.rmtree(f"{root}/out-{what}")
    finally:
        for device in devices:
            subprocess.run([device.program, "daemon", "stop", "--force"], env=device.env(), check=False,
                           capture_output=True)
            device.kill()
        seeder.stop()


def restic(root, source):
    repository = f"{root}/restic"
    env = {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": repository,
           "RESTIC_CACHE_DIR": f"{root}/restic-cache"}

    def run(*words):
        subprocess.run(["restic", "--quiet", *words], env=env, check=True, stdout=subprocess.DEVNULL, cwd=source)

    run("init")
    for what in ("small", "large"):
        run("backup", "--tag", what, what)
    for what in ("small", "large"):
        shutil.rmtree(f"{root}/restic-cache", ignore_errors=True)
        started = time.monotonic()
        run("restore", "--tag", what, "--target", f"{root}/out-{what}", "latest")
        seconds = time.monotonic() - started
        compare(f"{source}/{what}", f"{root}/out-{what}/{what}")
        tell(f"restic, {what}", size(f"{source}/{what}"), seconds)
        shutil.rmtree(f"{root}/out-{what}")


class Syncthing:
    """One device, which speaks with nobody but on loopback."""

    def __init__(self, root, name):
        self.home, self.port, self.gui = f"{root}/syncthing-{name}", free_port(), free_port()
        self.log = open(f"{self.home}.log", "w", encoding="utf-8")
        subprocess.run(["syncthing", "generate", f"--home={self.home}"], check=True, stdout=self.log, stderr=self.log)
        self.process = subprocess.Popen(
            ["syncthing", "serve", "--no-browser", "--no-restart", "--no-upgrade", f"--home={self.home}",
             f"--gui-address=127.0.0.1:{self.gui}", "--gui-apikey=bench"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + 60
        while True:
            try:
                self.id = self.ask("GET", "/rest/system/status")["myID"]
                break
            except OSError:
                if time.monotonic() > end:
                    sys.exit("Syncthing does not answer")
                time.sleep(0.1)
        self.ask("PATCH", "/rest/config/options", {
            "listenAddresses": [f"tcp://127.0.0.1:{self.port}"], "globalAnnounceEnabled": False,
            "localAnnounceEnabled": False, "relaysEnabled": False, "natEnabled": False, "urAccepted": -1,
            "crashReportingEnabled": False, "autoUpgradeIntervalH": 0})

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.gui}{path}", data=data, method=method,
                                         headers={"X-API-Key": "bench"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else {}

    def knows(self, other):
        self.ask("PUT", f"/rest/config/devices/{other.id}", {
            "deviceID": other.id, "addresses": [f"tcp://127.0.0.1:{other.port}"]})

    def keeps(self, folder, path, other):
        self.ask("PUT", f"/rest/config/folders/{folder}", {
            "id": folder, "label": folder, "path": path, "fsWatcherEnabled": False, "rescanIntervalS": 0,
            "devices": [{"deviceID": self.id}, {"deviceID": other.id}]})

    def until(self, folder, files):
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                status = self.ask("GET", f"/rest/db/status?folder={folder}")
                if status["state"] == "idle" and status["localFiles"] == files and status["needTotalItems"] == 0:
                    return
            except OSError:
                # The folder is not there at once.
                pass
            if time.monotonic() > end:
                sys.exit(f"Syncthing has not got {folder}")
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def syncthing(root, source, files):
    devices = []
    try:
        devices = [Syncthing(root, "one"), Syncthing(root, "other")]
        one, other = devices
        one.knows(other)
        other.knows(one)
        for what, count in (("small", files), ("large", 1)):
            copy(f"{source}/{what}", f"{root}/in-{what}")
            one.keeps(what, f"{root}/in-{what}", other)
            one.until(what, count)
            started = time.monotonic()
            other.keeps(what, f"{root}/out-{what}", one)
            other.until(what, count)
            seconds = time.monotonic() - started
            compare(f"{source}/{what}", f"{root}/out-{what}")
            tell(f"Syncthing, {what}", size(f"{source}/{what}"), seconds)
            shutil.rmtree(f"{root}/out-{what}")
    finally:
        for device in devices:
            device.stop()


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--bin", required=True)
    words.add_argument("--seeder", required=True)
    words.add_argument("--files", type=int, default=5000)
    words.add_argument("--large-mib", type=int, default=1024)
    words.add_argument("--reps", type=int, default=1)
    words.add_argument("--only", choices=["cobox", "restic", "syncthing"])
    options = words.parse_args()
    if not os.path.exists("/dev/fuse"):
        sys.exit("there is no /dev/fuse on this machine")
    for _ in range(options.reps):
        root = tempfile.mkdtemp(prefix="cobox-restore.")
        try:
            source = f"{root}/source"
            os.makedirs(source)
            make(source, options.files, options.large_mib << 20)
            print(f"load {load()}; {options.files} files of {size(f'{source}/small') >> 20} MiB, "
                  f"and one of {options.large_mib} MiB", flush=True)
            targets = {"restic": lambda: restic(root, source), "cobox": lambda: cobox(options, root, source),
                       "syncthing": lambda: syncthing(root, source, options.files)}
            for name, measure in targets.items():
                if options.only not in (None, name):
                    continue
                if name != "cobox" and not shutil.which(name):
                    print(f"{name} is not installed: not compared")
                    continue
                measure()
        finally:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
