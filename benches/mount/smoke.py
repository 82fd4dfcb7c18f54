"""The benchmark at its smallest, as a test: every workload verifies its bytes, the tables go where they
belong, and nothing is left behind, also after an interrupt. No time that is measured decides anything.

`scripts/test.sh` runs it; COBOX_BIN says where cobox-ctl and coboxd are.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import report

HERE = os.path.dirname(os.path.abspath(__file__))
# A tree that every checkout has.
SOURCE = os.path.join(HERE, "..", "..", "cobox-fs")
LIMIT_S = 300


class Smoke(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="cobox-bench-smoke-")
        self.addCleanup(folder.cleanup)
        self.dir = os.path.join(os.path.realpath(folder.name), "bench")
        os.mkdir(self.dir)
        self.document = os.path.join(folder.name, "document.md")

    def start(self, *words):
        # The caches of the machine are left alone: others may be working on it.
        return subprocess.Popen([sys.executable, "-B", HERE, "--dir", self.dir, "--scale", "0.01", "--reps", "1",
                                 "--remount-only", "--source", SOURCE, *words],
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self, process):
        """Its exit code and what it printed, having left nothing behind."""
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
        self.assertEqual(os.listdir(self.dir), [], "files are left")
        self.assertFalse(self.mounted(), "a mount is left")
        return process.returncode, out, err

    def mounted(self):
        with open("/proc/self/mountinfo") as mounts:
            return self.dir in mounts.read()

    def write(self, text):
        with open(self.document, "w") as file:
            file.write(text)

    def read(self):
        with open(self.document) as file:
            return file.read()

    def test_workloads_verify_their_bytes_and_the_section_is_replaced(self):
        self.write(f"before\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n")
        code, out, err = self.end(self.start("--targets", "native,cobox", "--write", self.document))
        # A workload that reads other bytes than were written fails, and then the code is 1.
        self.assertEqual(code, 0, out + err)
        text = self.read()
        self.assertTrue(text.startswith(f"before\n\n{report.BEGIN}\n\n### "), text)
        self.assertTrue(text.endswith(f"\n{report.END}\n\nafter\n"), text)
        self.assertNotIn("\nold\n", text)
        for row in ("| sequential write and fsync", "| git status, cold", "| SQLite, WAL", "| disk image", "| peak memory"):
            self.assertIn(row, text)
        self.assertIn(out.strip(), text)

    def test_file_without_the_section_is_not_written(self):
        self.write("something else\n")
        code, _, err = self.end(self.start("--targets", "cobox", "--write", self.document))
        self.assertNotEqual(code, 0)
        self.assertIn("between which the figures go", err)
        self.assertEqual(self.read(), "something else\n")

    def test_interrupted_run_unmounts_and_removes_everything(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            process = self.start("--targets", "cobox")
            until = time.monotonic() + LIMIT_S
            while not self.mounted() and process.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            process.send_signal(number)
            code, _, err = self.end(process)
            self.assertEqual(code, 128 + number, err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
