"""Damage at random to a good output: an audit names every change but those that a rule calls harmless.

So many mutants as take half a minute. `python -m benchmarks.mutated_outputs` makes thousands.
"""

import random
import shutil
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.audit.verify import list_run
from pipeline.errors import ManifestError
from tests.mutations import (
    VERSION_DIGITS,
    Output,
    is_harmless,
    is_older_record,
    is_same_content,
    label_photos,
    mutate_bytes,
    mutate_members,
    mutate_values,
    replace_footer,
)

NUM_BYTE_MUTANTS = 100
NUM_FOOTER_MUTANTS = 50
NUM_VALUE_MUTANTS = 50
NUM_MEMBER_MUTANTS = 40
NUM_RECORD_MUTANTS = 500


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return label_photos(tmp_path_factory.mktemp("mutated"))


def test_every_damaged_byte_of_a_manifest_is_named_unless_a_rule_calls_it_harmless(output: Output) -> None:
    rng = random.Random(15)
    missed = []
    for number in range(NUM_BYTE_MUTANTS):
        damaged = mutate_bytes(output.manifest, rng)
        if not output.list_findings(damaged) and not is_harmless(output.manifest, damaged):
            missed.append(number)
    assert missed == []


def test_every_bit_of_a_footer_is_named_unless_a_rule_calls_it_harmless(output: Output) -> None:
    """Most of its bytes are names and types, which readers do not check."""
    num_bytes = len(output.manifest)
    start = num_bytes - 8 - int.from_bytes(output.manifest[-8:-4], "little")
    rng = random.Random(3)
    missed = []
    for place in sorted(rng.sample(range(start, num_bytes), NUM_FOOTER_MUTANTS)):
        damaged = bytearray(output.manifest)
        damaged[place] ^= 1 << rng.randrange(8)
        if not output.list_findings(bytes(damaged)) and not is_harmless(output.manifest, bytes(damaged)):
            missed.append(place)
    assert missed == []


def test_what_the_rule_calls_harmless_no_reader_sees_in_rows_or_types(output: Output, tmp_path: Path) -> None:
    version = VERSION_DIGITS.search(output.manifest)
    other = output.manifest[: version.start(1)] + b"9" + output.manifest[version.start(1) + 1 :]
    assert is_harmless(output.manifest, other)
    assert output.list_findings(other) == []
    paths = [tmp_path / "before.parquet", tmp_path / "after.parquet"]
    for path, payload in zip(paths, (output.manifest, other), strict=True):
        path.write_bytes(payload)
    tables = [pq.read_table(path) for path in paths]
    assert tables[0].equals(tables[1], check_metadata=True)
    frames = [pl.read_parquet(path) for path in paths]
    assert frames[0].equals(frames[1])
    assert frames[0].schema == frames[1].schema
    rows = [duckdb.sql(f"SELECT * FROM read_parquet('{path}')").fetchall() for path in paths]
    assert rows[0] == rows[1]


def test_every_other_value_in_valid_parquet_is_named(output: Output) -> None:
    rng = random.Random(7)
    missed = []
    for number in range(NUM_VALUE_MUTANTS):
        mutant = mutate_values(output.manifest, rng)
        if bool(output.list_findings(mutant.payload)) != mutant.is_changed:
            missed.append((number, mutant.kind))
    assert missed == []


def test_every_other_count_of_members_is_named(output: Output) -> None:
    assert output.list_findings(replace_footer(output.manifest, dict)) == []
    rng = random.Random(17)
    missed = []
    for number in range(NUM_MEMBER_MUTANTS):
        mutant = replace_footer(output.manifest, lambda footer: mutate_members(footer, rng))
        if not output.list_findings(mutant):
            missed.append(number)
    assert missed == []


def test_every_other_content_of_run_json_is_named(output: Output, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    shutil.copy(output.item.manifest_uri, tmp_path / "labels")
    path = tmp_path / "run.json"
    payload = (output.folder / "out" / "run.json").read_bytes()
    rng = random.Random(500)
    missed, num_changed = [], 0
    for number in range(NUM_RECORD_MUTANTS):
        damaged = mutate_bytes(payload, rng)
        path.write_bytes(damaged)
        num_changed += not (is_same := is_same_content(payload, damaged))
        try:
            is_named = bool(list_run(str(tmp_path)).verdict.failed_checks)
        except ManifestError:
            is_named = True
        if not is_named and not is_same and not is_older_record(payload, damaged):
            missed.append(number)
    assert missed == []
    assert num_changed > 0.9 * NUM_RECORD_MUTANTS
