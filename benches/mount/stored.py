"""What the same files take: in CoBox's store, worked on in its mount, and in restic's, backed up each time.

Two sets of files: a disk image of which pages are overwritten in place, and a source tree in five versions.
In the mount the five lie side by side, so that both programs keep all of them. Of the image restic keeps both
versions, CoBox the last.
"""

import os
import random
import shutil
import time

import machine
from inputs import PAGE, Blocks
from machine import MIB
from targets import Cobox

VERSIONS = 5
# One file in so many is edited from one version to the next.
EDITED_PART = 30
# One page of the image in so many is overwritten.
OVERWRITTEN_PART = 100
SEED_IMAGE = 30
# The store has settled when it takes the same room for so long.
QUIET_S = 3


def _image(path, size_mib):
    """A disk image: two fifths zeros, a third random bytes, the rest text."""
    order, noise = random.Random(31), Blocks().get(SEED_IMAGE, size_mib // 3 + 1)
    with open(path, "wb") as file:
        for index in range(size_mib):
            kind = order.random()
            line = f"{index} {order.randrange(100)} a line of a log on a disk\n".encode()
            text = (line * (MIB // len(line) + 1))[:MIB]
            file.write(bytes(MIB) if kind < 0.4 else noise[index // 3] if kind < 0.73 else text)


def _overwrite(path):
    order = random.Random(33)
    with open(path, "r+b", buffering=0) as file:
        pages = os.fstat(file.fileno()).st_size // PAGE
        for page in order.sample(range(pages), pages // OVERWRITTEN_PART):
            os.pwrite(file.fileno(), order.randbytes(PAGE), page * PAGE)
        os.fsync(file.fileno())


def _edit(tree, version):
    """Turns a tree into its next version: lines put into the middle of some files, and a new file."""
    order = random.Random(100 + version)
    files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(tree) for name in names)
    for path in order.sample(files, max(1, len(files) // EDITED_PART)):
        with open(path, "rb") as file:
            lines = file.readlines()
        lines.insert(len(lines) // 2, b"// edited %d %d\n" % (version, order.randrange(1 << 30)))
        with open(path, "wb") as file:
            file.writelines(lines)
    with open(os.path.join(tree, f"new-{version}"), "w") as file:
        file.writelines(f"{order.randrange(1 << 40)}\n" for _ in range(2000))


class _Restic:
    """A repository of version 2 (compressing) in a folder of its own."""

    def __init__(self, work):
        self.store = os.path.join(work, "restic")
        self.environment = {**os.environ, "RESTIC_REPOSITORY": self.store, "RESTIC_PASSWORD": "a password",
                            "RESTIC_CACHE_DIR": os.path.join(work, "restic-cache")}
        self._run("init", "--repository-version", "2")

    def back_up(self, path):
        self._run("backup", path)

    def bytes(self):
        self._run("check")
        return machine.stored_bytes(self.store)

    def _run(self, *words):
        machine.run(["restic", "-q", *words], limit_s=600, env=self.environment)


def _back_up(restic, path):
    if restic:
        restic.back_up(path)


def _image_in_both(work, cobox, restic, sizes, _source):
    image, mounted = os.path.join(work, "image"), os.path.join(cobox.mnt, "image")
    _image(image, sizes.image_mib)
    shutil.copyfile(image, mounted)
    _back_up(restic, image)
    _overwrite(mounted)
    _overwrite(image)
    _back_up(restic, image)
    return lambda: machine.run(["cmp", image, mounted])


def _tree_in_both(work, cobox, restic, _sizes, source):
    tree = os.path.join(work, "tree")
    shutil.copytree(source.tree, tree, symlinks=True)
    for version in range(1, VERSIONS + 1):
        if version > 1:
            _edit(tree, version)
        machine.run(["cp", "-a", tree, os.path.join(cobox.mnt, f"v{version}")], limit_s=600)
        _back_up(restic, tree)
    return lambda: machine.run(["diff", "-r", "--no-dereference", tree, os.path.join(cobox.mnt, f"v{VERSIONS}")])


def _settled_bytes(cobox, limit_s=120):
    """What the store takes when what was written has been sealed and the daemon has ended."""
    until, last, since = time.monotonic() + limit_s, None, time.monotonic()
    while time.monotonic() < until and time.monotonic() - since < QUIET_S:
        now = machine.stored_bytes(cobox.store)
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.2)
    cobox.unmount()
    return machine.stored_bytes(cobox.store, without=(Cobox.reserve,))


def measure(base, sizes, source, fail):
    """One row for each set of files: its title, CoBox's bytes, restic's (None when not installed).

    What goes wrong with one of them is given to `fail`.
    """
    rows = []
    image = f"disk image of {sizes.image_mib} MiB, 1 % of its pages overwritten"
    tree = f"source tree of {len(source.files):,} files, {source.size / 1e6:.1f} MB, in {VERSIONS} versions"
    for title, fill in ((image, _image_in_both), (tree, _tree_in_both)):
        try:
            row = _one(base, title, fill, sizes, source)
            machine.say(f"stored: {row}")
            rows.append(row)
        except (RuntimeError, OSError) as error:
            fail("stored", title, error)
    return rows


def _one(base, title, fill, sizes, source):
    cobox = Cobox(base)
    try:
        restic = _Restic(cobox.work) if shutil.which("restic") else None
        cobox.make()
        cobox.mount()
        check = fill(cobox.work, cobox, restic, sizes, source)
        machine.settle(cobox.store)
        taken = _settled_bytes(cobox)
        cobox.remount()
        check()
        return title, taken, restic and restic.bytes()
    finally:
        cobox.remove()
