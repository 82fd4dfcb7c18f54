"""What the workloads write: seeded bytes, a source tree, and how much of each at a given scale."""

import os
import random
import shutil
from dataclasses import dataclass

from machine import MIB, run

PAGE = 4096
# What grep looks for: many files of any source tree hold it.
NEEDLE = "return"
# Fewer files are no tree.
FILES_MIN = 60


@dataclass(frozen=True)
class Sizes:
    """How much each workload does; at scale 1 what is named here, never less than the least."""

    sequential_mib: int
    random_mib: int
    random_reads: int
    overwrites: int
    synced_overwrites: int
    small_files: int
    transactions: int
    image_mib: int
    source_part: float

    @classmethod
    def of(cls, scale):
        def part(full, least):
            return max(least, int(full * scale))

        # The tree stays whole down to a quarter: programs that walk it have costs of their own.
        return cls(sequential_mib=part(1024, 8), random_mib=part(256, 8), random_reads=part(20_000, 100),
                   overwrites=part(8192, 100), synced_overwrites=part(1000, 20), small_files=part(5000, 100),
                   transactions=part(1000, 20), image_mib=part(512, 16), source_part=min(1.0, 4 * scale))


class Blocks:
    """Mebibytes that nothing can compress or find twice: the same for the same seed, made once."""

    def __init__(self):
        self._made = {}

    def get(self, seed, count):
        made = self._made.setdefault(seed, [])
        source = random.Random(f"{seed} {len(made)}")
        while len(made) < count:
            made.append(source.randbytes(MIB))
        return made[:count]


def default_source():
    """The sources of RocksDB in cargo's registry, which building CoBox has fetched: a real tree of 1,900 files."""
    home = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    registry = os.path.join(home, "registry", "src")
    found = []
    for index in sorted(os.listdir(registry)) if os.path.isdir(registry) else []:
        for name in os.listdir(os.path.join(registry, index)):
            if name.startswith("librocksdb-sys-"):
                found.append(os.path.join(registry, index, name))
    return sorted(found, key=os.path.basename)[-1] if found else None


class Source:
    """A source tree: a folder with the part of `origin` that the scale asks for, and its archive."""

    def __init__(self, origin, part, work):
        self.name = os.path.basename(os.path.normpath(origin))
        self.tree = os.path.join(work, "source")
        self.archive = os.path.join(work, "source.tar.gz")
        files = sorted(os.path.relpath(os.path.join(folder, name), origin)
                       for folder, _, names in os.walk(origin) for name in names)
        keep = max(min(len(files), FILES_MIN), round(len(files) * part))
        self.files = [files[index * len(files) // keep] for index in range(keep)]
        self.size = 0
        for name in self.files:
            to = os.path.join(self.tree, name)
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copy2(os.path.join(origin, name), to, follow_symlinks=False)
            self.size += os.lstat(to).st_size
        run(["tar", "czf", self.archive, "-C", self.tree, "."])
        found = run(["grep", "-rlF", NEEDLE, "."], codes=(0, 1), cwd=self.tree)
        self.with_needle = sorted(line.removeprefix("./") for line in found.splitlines())
