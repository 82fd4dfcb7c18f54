"""Measures a CoBox mount beside the native file system, bindfs and gocryptfs, and its store beside restic.

  python3 benches/mount                          everything at scale 1, three repetitions
  python3 benches/mount --scale 0.1 --only seq_write,untar --targets gocryptfs,cobox
  python3 benches/mount --write docs/performance.md

The targets take turns (A B C D, A B C D), each time with a fresh store. Everything lies in one temporary
folder, which is unmounted and removed also when the program is interrupted. Programs that are not
installed are named and left out. As root the kernel's caches are emptied for cold reads; otherwise the
mounts are only made anew, and the table says so.
"""

import argparse
import os
import tempfile
import time

import inputs
import machine
import report
import stored
import targets
import workloads
from machine import say


def arguments():
    parser = argparse.ArgumentParser(prog="benches/mount", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="how much each workload does (default 1)")
    parser.add_argument("--reps", type=int, default=3, help="repetitions of each target (default 3)")
    parser.add_argument("--targets", default=",".join(targets.ALL), help="of %(default)s")
    parser.add_argument("--only", help="of " + ",".join([each.key for each in workloads.ALL] + ["stored"]))
    parser.add_argument("--source", default=inputs.default_source(), help="a source tree (default: RocksDB's, from cargo's registry)")
    parser.add_argument("--dir", help="where the temporary folder is made (default: $TMPDIR or /tmp)")
    parser.add_argument("--limit", type=float, default=120, help="seconds that one workload may take (default 120)")
    parser.add_argument("--budget", type=float, default=3600,
                        help="start no further round of repetitions that would end after so many seconds (default 3600)")
    parser.add_argument("--remount-only", action="store_true", help="leave the kernel's caches alone also as root")
    parser.add_argument("--write", metavar="FILE", help="replace the marked section of this file by the result")
    options = parser.parse_args()
    options.names = _chosen(parser, options.targets, list(targets.ALL))
    options.only = _chosen(parser, options.only, [each.key for each in workloads.ALL] + ["stored"])
    if options.scale <= 0 or options.reps < 1:
        parser.error("--scale and --reps are positive")
    if not options.source or not os.path.isdir(options.source):
        parser.error("there is no source tree in cargo's registry: name one with --source")
    return options


def _chosen(parser, text, known):
    names = known if text is None else [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    return names


class Round:
    """One repetition of one target: a fresh store, and every workload in its order."""

    def __init__(self, target, place, figures, options):
        self.target, self.place, self.figures, self.options = target, place, figures, options

    def run(self):
        self.target.make()
        self.target.mount()
        for each in workloads.ALL:
            if each.key in self.options.only:
                try:
                    self._measure(each)
                except TimeoutError as error:
                    self.figures.fail(self.target.name, each.key, error)
                    return  # the mount hangs: what follows would, too
                except (RuntimeError, OSError) as error:
                    say(f"  {self.target.name} {each.key}: {error}")
                    self.figures.fail(self.target.name, each.key, error)

    def _untimed(self, work):
        if work:
            machine.timed(lambda: work(self.place), 3 * self.options.limit)

    def _measure(self, each):
        self._untimed(each.prepare)
        machine.settle(self.target.store)
        if each.cold:
            self._forget()
        self._untimed(each.warm)
        before = self.target.cpu_s()
        seconds, cpu_s = machine.timed(lambda: each.run(self.place), self.options.limit)
        self.figures.add(self.target.name, each.key, seconds, cpu_s + self.target.cpu_s() - before)
        self.target.sample()
        say(f"  {self.target.name:10} {each.key:16} {seconds:8.3f} s")
        if each.check:
            self._forget()
            self._untimed(each.check)

    def _forget(self):
        self.target.remount()
        if self.options.drop_caches:
            machine.settle(self.target.store)
            machine.drop_caches()
            # The programs themselves are not what is read cold.
            for program in ("git", "grep"):
                machine.version([program, "--version"])


def repetitions(base, figures, present, options, source, sizes):
    """All rounds; returns how many of the repetitions were made."""
    blocks, began, longest = inputs.Blocks(), time.monotonic(), 0.0
    # Made before anything is timed or forked, so that no workload pays for it.
    for seed, count in ((workloads.SEED_SEQUENTIAL, sizes.sequential_mib), (workloads.SEED_RANDOM, sizes.random_mib),
                        (workloads.SEED_BATCH, sizes.random_mib),
                        (workloads.SEED_SMALL, sizes.small_files * inputs.PAGE // machine.MIB + 1),
                        (workloads.SEED_PAGES, max(sizes.overwrites, sizes.synced_overwrites) * inputs.PAGE // machine.MIB + 1)):
        blocks.get(seed, count)
    for repetition in range(options.reps):
        since = time.monotonic()
        if repetition and since - began + longest > options.budget:
            say(f"the budget of {options.budget:.0f} s ends this run after {repetition} repetitions")
            return repetition
        for kind in present:
            figures.loads.append(machine.load())
            say(f"repetition {repetition + 1}, {kind.name}, load {figures.loads[-1]:.1f}")
            target = kind(base)
            try:
                place = workloads.Place(target.mnt, target.store, sizes, blocks, source, options.limit)
                Round(target, place, figures, options).run()
                if repetition == 0:
                    synced = targets.fsyncs_that_reach_the_disk(target)
                    if synced is not None:
                        figures.synced[kind.name] = synced
                target.sample()
                figures.peak_mib.setdefault(kind.name, []).append(target.peak_mib)
            except Exception as error:  # one target's failure is a line in the table, not the end
                say(f"  {kind.name}: {error}")
                figures.fail(kind.name, "all", error)
            finally:
                target.remove()
        longest = max(longest, time.monotonic() - since)
    return options.reps


def head(figures, made, options, base, present, absent, source):
    """What a reader must know of the run."""
    versions = [f"{name} {text}" for name, text in (
        *((kind.name, (kind.version() or "").removeprefix(kind.name).strip()) for kind in present if kind.name != "native"),
        ("restic", (machine.version(["restic", "version"]) or "not installed").removeprefix("restic ").split(" compiled")[0]),
        ("git", (machine.version(["git", "--version"]) or "not installed").removeprefix("git version ")),
        ("SQLite", workloads.sqlite3.sqlite_version))]
    loads = figures.loads or [machine.load()]
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    lines = [f"{when}, scale {options.scale:g}, medians of {made} repetitions in turn, load before each {min(loads):.1f} to "
             f"{max(loads):.1f}.", machine.description(base) + ".", "; ".join(versions) + "."]
    lines.append(f"Source tree: {source.name}, {len(source.files):,} files, {source.size / 1e6:.1f} MB.")
    if absent:
        lines.append("Not installed, and left out: " + ", ".join(absent) + ".")
    if not options.drop_caches:
        lines.append("**Cold here means mounted anew; the kernel's pages of the stores stayed (this needs root).**")
    return lines


NOTES = [
    "Bytes written are incompressible and unique. What was read is compared with what was written. Making, removing,",
    "untar and `cp` end with an `fsync` in the mount and `sync -f` of the store. Processor time is that of the workload",
    "and of the daemon while it runs; what a daemon does afterwards is not in it. Of the image restic keeps both versions,",
    "CoBox the last; of the tree both keep all. Not counted are the store's reserve for a full disk and what RocksDB",
    "preallocates behind the end of its log (22 MB in an empty store).",
]


def main():
    machine.end_on_signals()
    options = arguments()
    if options.write:
        report.section(options.write)  # says so now, not after an hour
    options.drop_caches = machine.may_drop_caches() and not options.remount_only
    chosen = [targets.ALL[name] for name in options.names]
    present = [kind for kind in chosen if kind.version() is not None]
    absent = [kind.name for kind in chosen if kind not in present]
    for name in absent:
        say(f"skipped: {name} is not installed")
    sizes = inputs.Sizes.of(options.scale)
    base = os.path.realpath(tempfile.mkdtemp(prefix="cobox-bench-", dir=options.dir))
    figures, rows, made = report.Figures([kind.name for kind in present], sizes), [], 0
    try:
        source = inputs.Source(options.source, sizes.source_part, base)
        if set(options.only) != {"stored"}:
            made = repetitions(base, figures, present, options, source, sizes)
        if "stored" in options.only and targets.Cobox in present:
            rows = stored.measure(base, sizes, source, figures.fail)
        text = report.markdown(figures, rows, head(figures, made, options, base, present, absent, source), NOTES)
    finally:
        machine.remove(base)
    print(text)
    if options.write:
        report.write(options.write, text)
    return 1 if figures.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
