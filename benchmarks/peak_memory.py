"""Peak memory of this process.

`getrusage` does not tell it: Linux hands `ru_maxrss` down to a process that is started,
so that a small child of a large process reports the peak of its parent.
"""

from pathlib import Path


def read_peak_bytes() -> int:
    """Largest resident memory that this process has had since it was started, in bytes (Linux only)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no line VmHWM: peak memory is read on Linux only")
