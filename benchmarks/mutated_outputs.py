"""Does an audit see everything? Damages a good output many times and counts what `jobs.verify` names.

    python -m benchmarks.mutated_outputs --num-mutants 2000

Half of the mutants of a manifest have other bytes, half other values with valid Parquet around them; those once as
they are, and once as an earlier version would have sealed them, without the digest of the rows. Every mutant of the
first kind is also opened by other readers, in a process of their own, for damage may end it.
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

import duckdb
import polars as pl
import pyarrow.parquet as pq
import tyro

from pipeline.audit.verify import list_run
from pipeline.errors import ManifestError
from tests.mutations import Output, is_harmless, is_same_content, label_photos, mutate_bytes, mutate_values

READERS = ("pyarrow", "duckdb", "polars")


@dataclass(frozen=True)
class Benchmark:
    """Damage an output and audit it."""

    num_mutants: int = 2000
    """Of a manifest."""
    num_record_mutants: int = 500
    """Of run.json."""
    rng_seed: int = 0


def read_view(reader: str, path: str) -> str:
    """Give all that a reader sees of a file, as text."""
    match reader:
        case "pyarrow":
            file = pq.ParquetFile(path)
            about = (file.schema_arrow.to_string(show_schema_metadata=True, truncate_metadata=False), str(file.schema))
            # The version of the writer is the one thing that a rule calls harmless.
            shown = repr((about, file.read().to_pylist(), file.metadata.to_dict() | {"created_by": ""}))
            return re.sub(r"object at 0x[0-9a-f]+", "object", shown)
        case "duckdb":
            # Another one each time: damage leaves some connections unusable.
            with duckdb.connect() as connection:
                rows = connection.sql(f"SELECT * FROM read_parquet('{path}')")
                about = connection.sql(f"SELECT * EXCLUDE file_name FROM parquet_metadata('{path}')").fetchall()
                return repr((rows.columns, rows.types, rows.fetchall(), about))
        case _:
            frame = pl.read_parquet(path)
            return repr((frame.schema, frame.rows(), pl.read_parquet_metadata(path)))


def look(path: str) -> dict[str, str]:
    """Give the views of all readers; an error is a view, too."""
    views = {}
    for reader in READERS:
        try:
            views[reader] = read_view(reader, path)
        except BaseException as error:  # noqa: BLE001 (a panic of Rust is no Exception)
            views[reader] = f"error {type(error).__name__}"
    return views


class Readers:
    """Other readers in a process that may die."""

    def __init__(self, folder: Path) -> None:
        """Keep the files to read in a folder."""
        self._path = folder / "mutant.parquet"
        self._pool = self._start()

    def look(self, payload: bytes) -> dict[str, str]:
        """Give the views of all readers."""
        self._path.write_bytes(payload)
        try:
            return self._pool.submit(look, str(self._path)).result()
        except BrokenProcessPool:
            self._pool = self._start()
            return dict.fromkeys(READERS, "the process ended")

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"))


def damage_bytes(output: Output, num_mutants: int, rng: random.Random, seen: Counter[str]) -> Counter[str]:
    """Audit manifests of other bytes, and count in `seen` what other readers see of them."""
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
    """Audit manifests of other values."""
    outcomes: Counter[str] = Counter()
    for _ in range(num_mutants):
        dropped = set() if has_digest else {"rows_sha256"}
        mutant = mutate_values(
            output.manifest, rng, lambda footer, dropped=dropped: {k: v for k, v in footer.items() if k not in dropped}
        )
        findings = output.list_findings(mutant.payload)
        outcomes[judge(findings, is_same=not mutant.is_changed, is_harmless=False)] += 1
    return outcomes


def damage_record(output: Output, num_mutants: int, rng: random.Random) -> Counter[str]:
    """Audit records of other bytes."""
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
    """Say what became of a mutant."""
    if is_same:
        return "unchanged, and named" if findings else "unchanged"
    if findings:
        return "named"
    return "harmless by rule" if is_harmless else "missed"


def main(job: Benchmark) -> None:
    """Print what became of the mutants."""
    rng = random.Random(job.rng_seed)
    half = job.num_mutants // 2
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        output = label_photos(Path(folder))
        table = {
            "manifest: bytes": damage_bytes(output, half, rng, seen),
            "manifest: values": damage_values(output, half, rng, has_digest=True),
            "manifest: values, no digest": damage_values(output, half, rng, has_digest=False),
            "run.json: bytes": damage_record(output, job.num_record_mutants, rng),
        }
    columns = ("unchanged", "harmless by rule", "named", "missed", "unchanged, and named")
    print(f"{'':30s}" + "".join(f"{column:>22s}" for column in columns))
    for name, outcomes in table.items():
        print(f"{name:30s}" + "".join(f"{outcomes[column]:22d}" for column in columns))
    print(f"of {half} manifests with other bytes, so many look other than before to: {dict(seen)}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
