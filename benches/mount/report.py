"""The figures of a run as markdown: medians, ratios, aims, and where they are written."""

import os
from statistics import median

from workloads import ALL

BEGIN = "<!-- mount: written by `make bench`, begin -->"
END = "<!-- mount: end -->"
COBOX = "CoBox"
STORED_AIM = 1.3
MEMORY_AIM_MIB = 300


def _figure(value, digits=2):
    if value is None:
        return "–"
    # Small times keep two digits that say something.
    return f"{value:,.{digits if value >= 0.1 or value == 0 else digits + 1}f}"


def _row(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _head(*cells):
    return [_row(*cells), "|---|" + "---:|" * (len(cells) - 1)]


def _verdict(met):
    return "met" if met else "**missed**"


class Figures:
    """Everything that one run measured."""

    def __init__(self, targets, sizes):
        self.targets = targets  # names, in their order
        self.sizes = sizes
        self.seconds, self.cpu_s, self.failures = {}, {}, []
        self.peak_mib, self.loads, self.synced = {}, [], {}

    def add(self, target, workload, seconds, cpu_s):
        self.seconds.setdefault((target, workload), []).append(seconds)
        self.cpu_s.setdefault((target, workload), []).append(cpu_s)

    def fail(self, target, workload, why):
        self.failures.append(f"{target}, {workload}: {' '.join(str(why).split())[:300]}")

    @staticmethod
    def _median(table, key):
        return median(table[key]) if key in table else None

    def ratio(self, workload):
        """How many times faster than the peer CoBox was; None when one of them was not measured."""
        ours = self._median(self.seconds, (COBOX, workload.key))
        theirs = self._median(self.seconds, (workload.peer, workload.key))
        return theirs / ours if ours and theirs else None

    def _measured(self):
        return [each for each in ALL if any((name, each.key) in self.seconds for name in self.targets)]

    def speed(self):
        lines = _head("seconds", *self.targets, "CoBox is faster by", "aim", "")
        for each in self._measured():
            ratio = self.ratio(each)
            cells = [_figure(self._median(self.seconds, (name, each.key))) for name in self.targets]
            by = "–" if ratio is None else f"{ratio:.2f} × {each.peer}"
            met = "not measured" if ratio is None else _verdict(ratio >= each.aim)
            lines.append(_row(each.title(self.sizes), *cells, by, f"{each.aim:.1f} × {each.peer}", met))
        return lines

    def processor(self):
        lines = _head("processor seconds, workload and daemon", *self.targets)
        for each in self._measured():
            cells = [_figure(self._median(self.cpu_s, (name, each.key))) for name in self.targets]
            lines.append(_row(each.title(self.sizes), *cells))
        return lines

    def daemons(self):
        lines = _head("daemon", *self.targets)
        peaks = [self._median(self.peak_mib, name) for name in self.targets]
        lines.append(_row("peak memory, MiB", *(_figure(peak or None, 0) for peak in peaks)))
        if self.synced:
            lines.append(_row("its sync calls for 20 of `fsync`", *(_figure(self.synced.get(name), 0) for name in self.targets)))
        ours = self._median(self.peak_mib, COBOX)
        if ours:
            lines += ["", f"The aim of {MEMORY_AIM_MIB} MiB for CoBox's memory is {_verdict(ours <= MEMORY_AIM_MIB)}."]
        return lines


def stored_table(rows):
    lines = _head("stored, MB", "restic", COBOX, "CoBox takes", "aim", "")
    for title, ours, theirs in rows:
        times = theirs and ours / theirs
        lines.append(_row(title, _figure(theirs and theirs / 1e6, 1), _figure(ours / 1e6, 1),
                          f"{times:.2f} × restic" if times else "–", f"≤ {STORED_AIM} × restic",
                          _verdict(times <= STORED_AIM) if times else "not measured"))
    return lines


def markdown(figures, stored, head, notes):
    """The whole section, without its markers."""
    parts = [["### A mount beside the programs that people use instead (`benches/mount`)"], head]
    if figures.seconds:
        parts += [figures.speed(), figures.processor(), figures.daemons()]
    if stored:
        parts.append(stored_table(stored))
    if figures.failures:
        parts.append(["What failed:", "", *(f"- {each}" for each in figures.failures)])
    parts.append(notes)
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def section(path):
    """The text before and after the section that is to be replaced in the file `path`."""
    with open(path) as file:
        text = file.read()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no lines “{BEGIN}” and “{END}”, between which the figures go.")
    return before, after


def write(path, text):
    before, after = section(path)
    with open(path + ".new", "w") as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
    os.replace(path + ".new", path)
