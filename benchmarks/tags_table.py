"""A tags table of many rows, joined by key: time and memory of the first worker of a machine and of the others.

    python -m benchmarks.tags_table --num-rows 10_000_000

The first process of a machine sorts the table into a local file; the others map that file.
"""

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from pipeline.inputs.tags_table.sorted_file import describe_table_version, open_tags_table
from pipeline.run.config import InputConfig

TAGS = ("dog", "cat", "person, bicycle", "sunset over the sea", "horse, grass, fence")


def main(num_rows: int = 10_000_000, num_lookups: int = 100_000) -> None:
    """Write a table, then measure two processes, one after the other.

    Args:
        num_rows: Rows of the table.
        num_lookups: Keys that each process looks up, spread over the table.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tags.csv")
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "tags"])
            writer.writerows([_name(number), TAGS[number % len(TAGS)]] for number in range(num_rows))
        print(f"{num_rows} rows, {path.stat().st_size / 1e6:.0f} MB of CSV")
        for name in ("first process (sorts)", "second process (maps)"):
            command = [
                sys.executable,
                "-m",
                "benchmarks.tags_table",
                "look-up",
                folder,
                str(num_rows),
                str(num_lookups),
            ]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{name}: open {found['open_s']:.1f} s, {found['lookup_us']:.0f} us a look-up, "
                f"peak memory {found['peak_mib']:.0f} MiB, of which {found['start_mib']:.0f} MiB are imports"
            )


def look_up(folder: str, num_rows: int, num_lookups: int) -> None:
    """Open the table of a folder, look keys up, and print figures as JSON."""
    tempfile.tempdir = folder
    uri = str(Path(folder, "tags.csv"))
    config = InputConfig(tags_table=uri, tags_table_etag=describe_table_version(uri))
    start_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    table = open_tags_table(config)
    opened = time.perf_counter()
    for place in range(num_lookups):
        cell = table.find(_name(place * (num_rows // num_lookups)))
        assert cell is not None
    end = time.perf_counter()
    assert table.num_rows == num_rows
    figures = {
        "open_s": opened - start,
        "lookup_us": (end - opened) / num_lookups * 1e6,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "start_mib": start_kib / 1024,
    }
    print(json.dumps(figures))


def _name(number: int) -> str:
    """Key of a row; neighbours of the table are far apart in the order of keys."""
    return f"{number * 2654435761 % 2**32:08x}/{number:09d}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["look-up"]:
        look_up(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        tyro.cli(main)
