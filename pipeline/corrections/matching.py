"""The row of each correction."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pipeline.corrections.drawing import Correction
from pipeline.errors import CorrectionError
from pipeline.export.names import name_files
from pipeline.published.rows import MaskRow, open_rows
from pipeline.published.run import PublishedRun

COLUMNS = ("status", "width", "height", "exif_orientation", "image_sha256", "mask")
ADVICE = "import files of images that tagmask export wrote of this run"


def iterate_matched(run: PublishedRun, corrections: Sequence[Correction]) -> Iterator[tuple[MaskRow, Correction]]:
    """Find the row of each correction, in the order of shards and rows; masks of one row group are in memory.

    Raises:
        CorrectionError: The run lacks a row, or it has another key; or two corrections are of one row.
        ManifestError: A manifest is damaged.
    """
    by_shard = _group(run, corrections)
    for shard in run.shards:
        wanted = by_shard.get(shard.name)
        if not wanted:
            continue
        with open_rows(run, run.locate(shard)) as manifest:
            for group in range(manifest.num_row_groups):
                if wanted.keys().isdisjoint(row.index for row in manifest.read_rows(group, ())):
                    continue
                for row in manifest.read_rows(group, COLUMNS):
                    if (correction := wanted.pop(row.index, None)) is not None:
                        _require_key(run, row, correction)
                        yield row, correction
        for index, correction in wanted.items():
            raise _refuse(correction, f"shard '{shard.name}' has no row {index}")


def _group(run: PublishedRun, corrections: Sequence[Correction]) -> dict[str, dict[int, Correction]]:
    names = [str(recorded[1]) for recorded in run.record["inputs"]]
    published = {shard.name for shard in run.shards}
    by_shard: dict[str, dict[int, Correction]] = defaultdict(dict)
    for one in corrections:
        name = one.row.shard
        if name is None:
            place = one.row.place
            if place is None or place >= len(names):
                raise _refuse(one, f"the run has no shard number {place}")
            name = names[place]
        if name not in published:
            raise _refuse(one, f"the run has no published shard '{name}'")
        if (other := by_shard[name].setdefault(one.row.index, one)) is not one:
            raise CorrectionError(
                f"image '{one.title}' stands in '{other.source}' and again in '{one.source}'; import one of them"
            )
    return by_shard


def _require_key(run: PublishedRun, row: MaskRow, correction: Correction) -> None:
    said = correction.row
    if said.key is not None and said.key != row.key:
        raise _refuse(correction, f"row {row.index} of shard '{row.shard_name}' has key '{row.key}'")
    if said.stem is not None and said.place is not None:
        name = name_files(row.key, said.place, row.index)
        if name != said.stem:
            raise _refuse(correction, f"row {row.index} of shard '{row.shard_name}' is exported as '{name}'")


def _refuse(correction: Correction, said: str) -> CorrectionError:
    return CorrectionError(
        f"'{correction.source}', image '{correction.title}': is no image of this run: {said}; {ADVICE}"
    )
