"""The machine: processes with a limit, signals, caches, mounts, load. Knows nothing of workloads."""

import json
import os
import platform
import resource
import select
import signal
import subprocess
import sys
import time

MIB = 1 << 20
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A command that is not a workload (making a store, unmounting) has failed when it takes longer.
COMMAND_LIMIT_S = 120


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def end_on_signals():
    """The first signal unwinds the stack, so that every `finally` runs; further ones are ignored."""

    def stop(number, _frame):
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in SIGNALS:
        signal.signal(each, stop)


def run(words, limit_s=COMMAND_LIMIT_S, codes=(0,), **options):
    """Runs a command to its end and returns what it printed; an unexpected exit code is an error."""
    done = subprocess.run(words, timeout=limit_s, text=True, errors="replace", stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode not in codes:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-300:].strip()}")
    return done.stdout


def version(words):
    """The first line of what a program says of its version, or nothing when it is not installed."""
    try:
        done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next((line.strip() for line in done.stdout.splitlines() if line.strip()), words[0])


def _cpu_s():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _in_child(work, pipe):
    """The forked side of `timed`: answers through `pipe` and never returns."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    try:
        cpu_s, began = _cpu_s(), time.perf_counter()
        work()
        answer = {"seconds": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu_s}
    except BaseException as error:  # whatever it is, the parent is who must hear of it
        answer = {"error": f"{type(error).__name__}: {error}"[:400]}
    os.write(pipe, json.dumps(answer).encode())
    os._exit(0)


def _reap(child, limit_s):
    """Waits for a child; one that hangs inside a dead mount ends when its daemon does."""
    until = time.monotonic() + limit_s
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > until:
            return
        time.sleep(0.005)


def timed(work, limit_s):
    """Runs `work` in a forked process, so that a mount that hangs cannot hang this program.

    Returns its wall and processor seconds (its own children's included), or raises what went wrong.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _in_child(work, write)
    os.close(write)
    try:
        if not select.select([read], [], [], limit_s)[0]:
            raise TimeoutError(f"not done within {limit_s:.0f} s")
        answer = os.read(read, 65536)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(read)
        _reap(child, 20)
    if not answer:
        raise RuntimeError("the process died")
    answer = json.loads(answer)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["seconds"], answer["cpu_s"]


def process_usage(pid):
    """(peak resident MiB, processor seconds) of a running process; zeros when it has gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0, 0.0
    return peak / 1024, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(process, limit_s=20):
    """Ends a process that was started here: asks, then insists."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(limit_s)


def is_mounted(path):
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == path for line in mounts)


def wait_until(what, condition, process=None, limit_s=60):
    until = time.monotonic() + limit_s
    while not condition():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what}: the daemon ended with {process.returncode}")
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {limit_s} s")
        time.sleep(0.05)


def unmount(path):
    """Takes a FUSE mount off; one that stays busy is detached, so that nothing is left behind."""
    for _ in range(50):
        if not is_mounted(path):
            return
        if subprocess.run(["fusermount3", "-u", path], stderr=subprocess.DEVNULL, timeout=30).returncode:
            time.sleep(0.1)
    run(["fusermount3", "-u", "-z", path])


def remove(path):
    """Removes a folder of ours, never across a mount."""
    subprocess.run(["rm", "-rf", "--one-file-system", path], timeout=COMMAND_LIMIT_S)


def settle(path):
    """Writes back what is dirty on the file system of `path`."""
    run(["sync", "-f", path], limit_s=600)


def may_drop_caches():
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3\n")


def stored_bytes(path, without=()):
    """What the files below `path` hold, leaving out files of the names `without`, holes, and room behind the
    end of a file that is only preallocated."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            if name not in without:
                status = os.lstat(os.path.join(folder, name))
                total += min(status.st_size, status.st_blocks * 512)
    return total


def load():
    return os.getloadavg()[0]


def description(path):
    """One line on what the figures were taken on."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    disk = run(["df", "--output=fstype", path]).split()[-1]
    return f"{os.cpu_count()} cores ({model}), {memory_gib:.0f} GiB, Linux {platform.release()}, {disk}"
