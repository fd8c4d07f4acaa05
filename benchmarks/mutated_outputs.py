"""Does an audit find all damage? Damages a valid output many times and counts what `tagmask verify` names.

    python -m benchmarks.mutated_outputs --num-mutants 2000

Half of the mutants of a manifest have changed bytes, half have changed values in valid Parquet. Each mutant of values
is audited with the digest of the rows, and without it, as an earlier version sealed manifests. Each mutant of bytes is
also opened by other readers, in a separate process, because damage may crash them.
"""

import random
import re
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import tyro

from pipeline.audit.verify import list_run
from pipeline.errors import ManifestError
from tests.mutations import (
    Output,
    is_harmless,
    is_same_content,
    label_photos,
    mutate_bytes,
    mutate_members,
    mutate_values,
    replace_footer,
)

READERS = ("pyarrow", "duckdb", "polars")


@dataclass(frozen=True)
class Benchmark:
    """Damage an output and audit it."""

    num_mutants: int = 2000
    """Mutants of a manifest."""
    num_record_mutants: int = 500
    """Mutants of run.json."""
    rng_seed: int = 0
    """Random seed of the mutations."""


def read_view(reader: str, path: str) -> str:
    """All that a reader sees of a file, as text."""
    match reader:
        case "pyarrow":
            file = pq.ParquetFile(path)
            about = (file.schema_arrow.to_string(show_schema_metadata=True, truncate_metadata=False), str(file.schema))
            # The audit ignores the version of the writing library.
            shown = repr((about, file.read().to_pylist(), file.metadata.to_dict() | {"created_by": ""}))
            return re.sub(r"object at 0x[0-9a-f]+", "object", shown)
        case "duckdb":
            # A new connection each time: damage leaves some connections unusable.
            with duckdb.connect() as connection:
                rows = connection.sql(f"SELECT * FROM read_parquet('{path}')")
                footer = connection.sql(f"SELECT * EXCLUDE file_name FROM parquet_metadata('{path}')").fetchall()
                return repr((rows.columns, rows.types, rows.fetchall(), footer))
        case _:
            frame = pl.read_parquet(path)
            return repr((frame.schema, frame.rows(), pl.read_parquet_metadata(path)))


def look(path: str) -> dict[str, str]:
    """What each reader sees; an error counts as a view."""
    views = {}
    for reader in READERS:
        try:
            views[reader] = read_view(reader, path)
        except BaseException as error:  # noqa: BLE001 (a Rust panic is not an Exception)
            views[reader] = f"error {type(error).__name__}"
    return views


class Readers:
    """Other readers, in a process that may die."""

    def __init__(self, folder: Path) -> None:
        """Start the process; files to read go to a folder."""
        self._path = folder / "mutant.parquet"
        self._pool = self._start()

    def look(self, payload: bytes) -> dict[str, str]:
        """What each reader sees of a file."""
        self._path.write_bytes(payload)
        try:
            return self._pool.submit(look, str(self._path)).result()
        except BrokenProcessPool:
            self._pool = self._start()
            return dict.fromkeys(READERS, "process died")

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"))


def damage_bytes(output: Output, num_mutants: int, rng: random.Random, seen: Counter[str]) -> Counter[str]:
    """Audit manifests with changed bytes; count in `seen` the readers that see a difference."""
    outcomes: Counter[str] = Counter()
    readers = Readers(output.folder)
    before = readers.look(output.manifest)
    for _ in range(num_mutants):
        damaged = mutate_bytes(output.manifest, rng)
        after = readers.look(damaged)
        findings = output.list_findings(damaged)
        changed = [reader for reader in READERS if after[reader] != before[reader]]
        outcomes[
            judge(findings, is_same=damaged == output.manifest, is_harmless=is_harmless(output.manifest, damaged))
        ] += 1
        seen.update(changed)
        seen["any of them"] += bool(changed)
        seen["any of them, and not named"] += bool(changed) and not findings
    return outcomes


def damage_values(output: Output, num_mutants: int, rng: random.Random, *, has_digest: bool) -> Counter[str]:
    """Audit manifests with changed values."""
    outcomes: Counter[str] = Counter()
    for _ in range(num_mutants):
        mutant = mutate_values(output.manifest, rng, dict if has_digest else drop_digest)
        findings = output.list_findings(mutant.payload)
        outcomes[judge(findings, is_same=not mutant.is_changed, is_harmless=False)] += 1
    return outcomes


def damage_members(output: Output, num_mutants: int, rng: random.Random) -> Counter[str]:
    """Audit manifests whose footers count other members."""
    outcomes: Counter[str] = Counter()
    for _ in range(num_mutants):
        mutant = replace_footer(output.manifest, lambda footer: mutate_members(footer, rng))
        outcomes[judge(output.list_findings(mutant), is_same=False, is_harmless=False)] += 1
    return outcomes


def drop_digest(footer: dict[str, Any]) -> dict[str, Any]:
    """Footer without the digest of the rows."""
    return {name: value for name, value in footer.items() if name != "rows_sha256"}


def damage_record(output: Output, num_mutants: int, rng: random.Random) -> Counter[str]:
    """Audit copies of run.json with changed bytes."""
    path = output.folder / "out" / "run.json"
    payload = path.read_bytes()
    outcomes: Counter[str] = Counter()
    for _ in range(num_mutants):
        damaged = mutate_bytes(payload, rng)
        path.write_bytes(damaged)
        try:
            findings = [str(check) for check in list_run(str(path.parent)).verdict.failed_checks]
        except ManifestError:
            findings = ["not the record of a run"]
        outcomes[judge(findings, is_same=False, is_harmless=is_same_content(payload, damaged))] += 1
    path.write_bytes(payload)
    return outcomes


def judge(findings: list[str], *, is_same: bool, is_harmless: bool) -> str:
    """Outcome of a mutant."""
    if is_same:
        return "unchanged, and named" if findings else "unchanged"
    if findings:
        return "named"
    return "harmless by rule" if is_harmless else "missed"


def main(job: Benchmark) -> None:
    """Print the outcomes of the mutants."""
    rng = random.Random(job.rng_seed)
    half = job.num_mutants // 2
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        output = label_photos(Path(folder))
        table = {
            "manifest: bytes": damage_bytes(output, half, rng, seen),
            "manifest: values": damage_values(output, half, rng, has_digest=True),
            "manifest: values, no digest": damage_values(output, half, rng, has_digest=False),
            "manifest: members": damage_members(output, half, rng),
            "run.json: bytes": damage_record(output, job.num_record_mutants, rng),
        }
    columns = ("unchanged", "harmless by rule", "named", "missed", "unchanged, and named")
    print(f"{'':30s}" + "".join(f"{column:>25s}" for column in columns))
    for name, outcomes in table.items():
        print(f"{name:30s}" + "".join(f"{outcomes[column]:25d}" for column in columns))
    print(f"of {half} manifests with changed bytes, readers that see a difference: {dict(seen)}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
