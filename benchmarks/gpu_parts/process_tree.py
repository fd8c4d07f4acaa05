"""CPU time of the processes below this one, by `/proc` (Linux only).

`getrusage` counts children only once they ended and were waited for, and not those of a fork server, which are children
of another process.
"""

import os
from pathlib import Path
from typing import NamedTuple


class _Process(NamedTuple):
    parent: int
    cpu_s: float


def read_descendants_cpu_s(pid: int) -> float:
    """CPU seconds of all processes below a process, with those of the ended processes that they waited for.

    It is counted in ticks of usually 10 ms.
    """
    processes = _read_processes()
    return sum(process.cpu_s for own, process in processes.items() if own != pid and _is_below(own, pid, processes))


def _is_below(pid: int, ancestor: int, processes: dict[int, _Process]) -> bool:
    while pid in processes:
        pid = processes[pid].parent
        if pid == ancestor:
            return True
    return False


def _read_processes() -> dict[int, _Process]:
    ticks_s = os.sysconf("SC_CLK_TCK")
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            # It ended after it was listed.
            continue
        # The name of the program, in parentheses, may hold spaces and parentheses.
        fields = text.rpartition(")")[2].split()
        # User and system time, of the process and of those that it waited for: fields 14 to 17 of the manual.
        found[int(path.parent.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])) / ticks_s)
    return found
