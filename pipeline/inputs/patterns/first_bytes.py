"""A look at the first bytes of some shards, before work starts."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import ShardError
from pipeline.inputs.patterns.file_kinds import HEAD_BYTES, FileKind, recognise_kind
from pipeline.run.records import InputShard
from pipeline.storage.outage import is_outage
from pipeline.storage.reading import read_head
from pipeline.storage.store_errors import describe_store_failure
from pipeline.storage.uris import list_schemes

MAX_LOOKS = 16
"""Maximum number of shards to look at."""
MAX_EMPTY_TAR_BYTES = 10240
"""Size of a tar without members as GNU tar writes it: zeros."""


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """A shard that its reader cannot read."""

    shard: InputShard
    kind: FileKind | None
    """None if it cannot be read."""
    what: str
    """Its kind, or why it cannot be read, as in 'it is ...'."""
    advice: str

    def describe(self) -> str:
        if self.kind is None:
            return f"shard '{self.shard.uri}' is {self.what}"
        wanted = "Parquet file" if self.shard.is_parquet else "tar archive"
        return f"shard '{self.shard.uri}' is no {wanted}: it is {self.what}"


def choose_looks(shards: Sequence[InputShard], most: int = MAX_LOOKS) -> list[InputShard]:
    """Choose shards to look at: the first, the last and others between, evenly spread."""
    last = len(shards) - 1
    num_looks = min(most, len(shards))
    return [shards[place * last // max(num_looks - 1, 1)] for place in range(num_looks)]


def require_archives(shards: Sequence[InputShard], on_warning: Callable[[str], None]) -> None:
    """Check by their first bytes that shards are archives: the first, the last and up to 14 between.

    Args:
        shards: In the order in which they were named.
        on_warning: Called with a sentence if a minority of the shards looked at, without the first, is no archive.
            Such shards fail later, each by its name.

    Raises:
        ShardError: The first shard is no archive, or more than half of the shards looked at are none.
        OSError: The store of a shard is down.
    """
    looked = choose_looks(shards)
    with ThreadPoolExecutor(max_workers=MAX_LOOKS) as pool:
        problems = [problem for problem in pool.map(_look, looked) if problem is not None]
    if not problems:
        return
    message = _describe_problems(problems, len(looked))
    if problems[0].shard is looked[0] or 2 * len(problems) > len(looked):
        raise ShardError(message)
    on_warning(message)


def _describe_problems(problems: Sequence[_Problem], num_looked: int) -> str:
    """Describe the first problem, and count the others."""
    first = problems[0]
    num_alike = sum(problem.what == first.what for problem in problems)
    others = sorted({problem.what for problem in problems} - {first.what})
    parts = [first.describe()]
    if num_looked > 1:
        parts.append(f"which holds for {num_alike} of {num_looked} shards looked at")
    if others:
        parts.append(f"and {len(problems) - num_alike} are {' or '.join(others)}")
    return f"{', '.join(parts)}; {first.advice}"


def _look(shard: InputShard) -> _Problem | None:
    """Read the first bytes of a shard; None if its reader can read on."""
    try:
        head = read_head(shard.uri, HEAD_BYTES)
    except OSError as error:
        if is_outage(error):
            raise
        cause = describe_store_failure(error.__cause__ or error)
        return _Problem(
            shard=shard, kind=None, what=f"unreadable: {cause}", advice="check that it exists and may be read"
        )
    kind = recognise_kind(head)
    if kind == (FileKind.PARQUET if shard.is_parquet else FileKind.TAR):
        return None
    if kind == FileKind.ZEROS and not shard.is_parquet and shard.size_bytes <= MAX_EMPTY_TAR_BYTES:
        return None
    advice = kind.advice
    if kind == FileKind.HTML and not {"http", "https"}.isdisjoint(list_schemes(shard.uri)):
        advice = f"if the page lists files, name them, as in '{shard.uri.rstrip('/')}/*.tar'; else check the address"
    return _Problem(shard=shard, kind=kind, what=kind, advice=advice)
