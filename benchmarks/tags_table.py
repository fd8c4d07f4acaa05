"""A tags table of many rows, joined by key: time and memory of the first worker of a machine and of the others.

    python -m benchmarks.tags_table --num-rows 10_000_000 --form csv

The first process of a machine sorts the table into a local file; the others map that file.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.peak_memory import read_peak_bytes
from pipeline.inputs.tags_table.sorted_file import describe_table_version, open_tags_table
from pipeline.run.config import InputConfig

TAGS = ("dog", "cat", "person, bicycle", "sunset over the sea", "horse, grass, fence")
ROWS_PER_GROUP = 2**17


Form = Literal["csv", "csv-slow", "jsonl", "jsonl-slow", "parquet"]
"""The slow forms have one row of another type or style, so that Python's parsers read the file."""


def main(num_rows: int = 10_000_000, num_lookups: int = 100_000, form: Form = "csv") -> None:
    """Write a table, then measure two processes, one after the other.

    Args:
        num_rows: Rows of the table.
        num_lookups: Keys that each process looks up, spread over the table.
        form: Kind of the table; JSON lines and Parquet hold lists, CSV text.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"tags.{form.removesuffix('-slow')}")
        _write_table(path, num_rows, form)
        print(f"{num_rows} rows, {path.stat().st_size / 1e6:.0f} MB of {form}")
        for name in ("first process (sorts)", "second process (maps)"):
            command = [
                *(sys.executable, "-m", "benchmarks.tags_table", "look-up"),
                *(str(path), str(num_rows), str(num_lookups)),
            ]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(
                f"{name}: open {found['open_s']:.1f} s, {found['lookup_us']:.0f} us a look-up, "
                f"peak memory {found['peak_mib']:.0f} MiB, of which {found['start_mib']:.0f} MiB are imports"
            )


def _write_table(path: Path, num_rows: int, form: Form) -> None:
    lists = [text.split(", ") for text in TAGS]
    if form == "parquet":
        schema = pa.schema([("key", pa.string()), ("tags", pa.list_(pa.string()))])
        with pq.ParquetWriter(path, schema) as table:
            for start in range(0, num_rows, ROWS_PER_GROUP):
                numbers = range(start, min(start + ROWS_PER_GROUP, num_rows))
                columns = [[_name(number) for number in numbers], [lists[number % len(lists)] for number in numbers]]
                table.write_table(pa.table(columns, schema=schema))
        return
    with path.open("w", newline="") as file:
        if form.startswith("csv"):
            writer = csv.writer(file)
            writer.writerow(["key", "tags"])
            writer.writerows([_name(number), TAGS[number % len(TAGS)]] for number in range(num_rows - 1))
        else:
            ends = [json.dumps(tags) for tags in lists]
            file.writelines(
                f'{{"key": "{_name(number)}", "tags": {ends[number % len(ends)]}}}\n' for number in range(num_rows - 1)
            )
        last = _name(num_rows - 1)
        if form.startswith("csv"):
            file.write(f'{last}, "dog"\n' if form == "csv-slow" else f"{last},dog\n")
        else:
            file.write(json.dumps({"key": last, "tags": "dog" if form == "jsonl-slow" else ["dog"]}) + "\n")


def look_up(path: Path, num_rows: int, num_lookups: int) -> None:
    """Open a table, look keys up, and print figures as JSON."""
    tempfile.tempdir = str(path.parent)
    uri = str(path)
    config = InputConfig(tags_table=uri, tags_table_etag=describe_table_version(uri))
    start_bytes = read_peak_bytes()
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
        "peak_mib": read_peak_bytes() / 2**20,
        "start_mib": start_bytes / 2**20,
    }
    print(json.dumps(figures))


def _name(number: int) -> str:
    """Key of a row; neighbours of the table are far apart in the order of keys."""
    return f"{number * 2654435761 % 2**32:08x}/{number:09d}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["look-up"]:
        look_up(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        tyro.cli(main)
