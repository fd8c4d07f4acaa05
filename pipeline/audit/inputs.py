"""The rows of a manifest beside the samples of its input, one by one, as long as their keys are the same.

While they are, no key is kept: only where they part are both sides read again, for their keys alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from pipeline.audit.archives.images import check_image
from pipeline.audit.archives.member_walk import WalkedSample, WalkEnd, walk_parquet, walk_tar
from pipeline.audit.keys import compare_keys
from pipeline.audit.verdict import Check, Problem
from pipeline.run.records import PARQUET_SUFFIX, InputShard
from pipeline.storage.storage import ByteStream, find_object, open_random, open_stream
from pipeline.storage.stored_objects import UNKNOWN_ETAG

KEY_ROWS = 1024


class InputReader:
    """The samples of an input in order, until it ends or cannot be read on."""

    def __init__(self, shard: InputShard, inputs: Mapping[str, Any], wants_image: Callable[[str], bool] | None) -> None:
        """Open the input.

        Args:
            shard: As it was when it was listed.
            inputs: Configuration of the inputs.
            wants_image: Tells by its key whether the image of a sample is to be read; None: none is.
        """
        self._shard = shard
        self._inputs = inputs
        self._stream: ByteStream | None = None
        self._walk: Iterator[WalkedSample | WalkEnd] = iter(())
        self.problem: Problem | None = None
        """Why it cannot be read, or not further."""
        self.end: WalkEnd | None = None
        """How it ended, once it has."""
        self._guard(lambda: self._open(wants_image))

    def read(self) -> WalkedSample | None:
        """Read the next sample; None when there is none, or `problem` says why there is none."""
        found = self._guard(lambda: next(self._walk, None)) if self.end is None and self.problem is None else None
        if isinstance(found, WalkEnd):
            self.end = found
            return None
        return found

    def list_keys(self) -> list[str] | None:
        """Read the keys of the whole input again; None if that fails."""
        with_keys = InputReader(self._shard, self._inputs, None)
        keys = []
        while sample := with_keys.read():
            keys.append(sample.key)
        with_keys.close()
        self.end, self.problem = with_keys.end, with_keys.problem
        return None if self.problem else keys

    def close(self) -> None:
        """Let go of the input."""
        if self._stream is not None:
            self._stream.close()

    def _open(self, wants_image: Callable[[str], bool] | None) -> None:
        shard = self._shard
        found = find_object(shard.uri)
        if found is None:
            self.problem = Problem(Check.INPUT_GONE, 0, shard.uri)
            return
        was, now = (shard.size_bytes, shard.etag), (found.size_bytes, found.etag)
        if shard.etag != UNKNOWN_ETAG and was != now:
            said = f"was {was[0]} bytes, etag {was[1]}; is {now[0]} bytes, etag {now[1]}"
            self.problem = Problem(Check.INPUT_CHANGED, 0, f"{shard.uri}: {said}")
            return
        if shard.uri.lower().endswith(PARQUET_SUFFIX):
            self._stream = open_random(shard.uri)
            self._walk = walk_parquet(self._stream, self._inputs, wants_image)
        else:
            self._stream = open_stream(shard.uri)
            self._walk = walk_tar(self._stream, wants_image or (lambda key: False))

    def _guard(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 (a hostile input makes tarfile, Arrow and stores raise anything at all)
            said = " ".join(str(error).split())
            self.problem = Problem(Check.INPUT_UNREADABLE, 0, f"{self._shard.uri}: {type(error).__name__}: {said}")
            return None


def compare_rows(
    shard: InputShard,
    reader: InputReader,
    rows: Iterator[dict[str, Any]],
    file: pq.ParquetFile,
    footer: Mapping[str, Any],
) -> Iterator[Problem]:
    """Compare rows with samples; all rows are read, whatever becomes of the samples.

    Args:
        shard: The input.
        reader: Of its samples.
        rows: Of the manifest.
        file: The manifest, for a second look at its keys.
        footer: Of the manifest.
    """
    starts = _list_starts(footer)
    number = -1
    for number, row in enumerate(rows):
        sample = reader.read()
        if sample is None or sample.key != row["key"]:
            break
        where = f"{shard.name}: row {number}, key '{row['key']}'"
        if starts.get(number, sample.offset) != sample.offset:
            said = f"its footer says that a chunk starts at {starts[number]}, in the input at {sample.offset}"
            yield Problem(Check.WRONG_FOOTER, 0, f"{where}: {said}")
        yield from _look_at(row, sample, where)
    else:
        if reader.read() is None:
            yield from _conclude(shard, reader, footer, starts.get(number + 1))
            return
    for _ in rows:
        pass
    if reader.problem:
        yield reader.problem
        return
    wanted = reader.list_keys()
    if wanted is None:
        assert reader.problem is not None
        yield reader.problem
        return
    found = [key for batch in file.iter_batches(KEY_ROWS, columns=["key"]) for key in batch["key"].to_pylist()]
    yield from compare_keys(shard.name, wanted, found)
    yield from _conclude(shard, reader, footer, None)


def _look_at(row: Mapping[str, Any], sample: WalkedSample, where: str) -> Iterator[Problem]:
    """Hold the image of a sample against its row, if it was read."""
    if sample.image is None and sample.has_image:
        return
    if fault := next(check_image(row, sample.image), None):
        yield Problem(Check.WRONG_IMAGES, 1, f"{where} {fault}")


def _list_starts(footer: Mapping[str, Any]) -> dict[int, int]:
    """Give by the number of a row where its chunk starts in the input, and at last where the last chunk ends."""
    starts: dict[int, int] = {}
    number = 0
    try:
        for num_rows, end_offset in footer["chunks"]:
            number += num_rows
            starts[number] = end_offset
    except (KeyError, TypeError, ValueError):
        # Told where the footer itself is checked.
        return {}
    return starts


def _conclude(
    shard: InputShard, reader: InputReader, footer: Mapping[str, Any], end_offset: int | None
) -> Iterator[Problem]:
    """Compare how the input ended with what the footer says of it."""
    if reader.problem or reader.end is None:
        if reader.problem:
            yield reader.problem
        return
    stated = footer.get("truncated_at")
    if reader.end.truncated_at != stated:
        said = f"its footer says truncated at {stated}, the input is at {reader.end.truncated_at}"
        yield Problem(Check.WRONG_COUNTS, 0, f"{shard.name}: {said}")
    elif end_offset is not None and end_offset != reader.end.offset:
        said = f"its footer says that the last chunk ends at {end_offset}, in the input at {reader.end.offset}"
        yield Problem(Check.WRONG_FOOTER, 0, f"{shard.name}: {said}")
