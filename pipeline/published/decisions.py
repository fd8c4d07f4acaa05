"""Decisions of reviewers about the rows of a run: Parquet files beside its manifests, one row a decision.

    OUT/reviews/REVIEWER/SESSION-NUMBER.parquet

Files are only added, and merged by the session that wrote them. Of several decisions about a row the latest counts.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ManifestError
from pipeline.images.masks import name_mask_file
from pipeline.published.rows import MaskRow
from pipeline.run.run_file import read_run
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri

REVIEWS_FOLDER = "reviews"
MAX_NOTE_LETTERS = 1000
MAX_REVIEWER_LETTERS = 100
NUM_THREADS = 16
NUM_LISTINGS = 5
"""Listings before a reader gives up: a session merges its files while others read them."""


class Verdict(StrEnum):
    """What a reviewer says about a row."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    WRONG_TAG = "wrong_tag"
    """A tag names what is not in the image; `classes` holds the wrong ones."""
    MISSING_TAG = "missing_tag"
    """The image has what no tag names; `classes` holds the classes to add."""
    REDRAW = "redraw"
    """The tags are right, and the mask has to be drawn by hand."""
    WITHDRAWN = "withdrawn"
    """The decision before is taken back: the row has none."""


ANSWERS = tuple(verdict for verdict in Verdict if verdict is not Verdict.WITHDRAWN)
"""What a reviewer can choose from."""
WITH_CLASSES = frozenset({Verdict.WRONG_TAG, Verdict.MISSING_TAG})

DECISION_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("classes", pa.list_(pa.string()), nullable=False),
        pa.field("note", pa.string(), nullable=False),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        ("image_sha256", pa.string()),
        ("mask_sha256", pa.string()),
    ]
)


class RowId(NamedTuple):
    """A row of a run: the same key may stand in several shards."""

    shard: str
    place: int
    """Index of the row in its shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One decision about one row."""

    shard: str
    """Name of the shard, which is that of its manifest without suffix."""
    index: int
    key: str
    decision: Verdict
    classes: tuple[str, ...] = ()
    """Names of classes; of `wrong_tag` the wrong ones, of `missing_tag` those to add. Empty: none was named."""
    note: str = ""
    reviewer: str
    time: datetime
    """In UTC."""
    fingerprint: str
    """Of the run."""
    image_sha256: str | None
    mask_sha256: str | None
    """Digest of the PNG that was judged; None for a rejected row. Another one: the row was labelled again since."""

    def __post_init__(self) -> None:
        if self.classes and self.decision not in WITH_CLASSES:
            raise ValueError(f"classes belong to {', '.join(sorted(WITH_CLASSES))}; got some for '{self.decision}'")
        if len(self.note) > MAX_NOTE_LETTERS:
            raise ValueError(f"need a note of at most {MAX_NOTE_LETTERS} characters, got {len(self.note)}")
        require_reviewer(self.reviewer)
        for text in (self.note, *self.classes):
            _require_unicode(text)

    @property
    def row_id(self) -> RowId:
        """The row that is judged."""
        return RowId(self.shard, self.index)

    @property
    def rank(self) -> tuple[datetime, str, str]:
        """Of two decisions about a row the one of higher rank counts: the later; at the same time by reviewer."""
        return self.time, self.reviewer, self.decision

    def applies_to(self, row: MaskRow) -> bool:
        """Whether a row is still the one that was judged: its image and its mask, as far as they were read."""
        if "image_sha256" in row.values and row.values["image_sha256"] != self.image_sha256:
            return False
        return "mask" not in row.values or compute_mask_digest(row.values["mask"]) == self.mask_sha256


def compute_mask_digest(record: Mapping[str, Any] | None) -> str | None:
    """Digest of the PNG in column `mask`; None for a row without one."""
    payload = record["bytes"] if record is not None else None
    return None if payload is None else sha256(payload).hexdigest()


@dataclass(frozen=True)
class Decisions(Mapping[RowId, Decision]):
    """The decisions that count, by row: the latest of each, without those taken back."""

    by_row: Mapping[RowId, Decision] = field(default_factory=dict)

    def __getitem__(self, row_id: RowId) -> Decision:
        return self.by_row[row_id]

    def __iter__(self) -> Iterator[RowId]:
        return iter(self.by_row)

    def __len__(self) -> int:
        return len(self.by_row)

    def find(self, row: MaskRow) -> Decision | None:
        """The decision about a row; None if there is none, or the row was labelled again since."""
        found = self.by_row.get(RowId(row.shard_name, row.index))
        return found if found is not None and found.applies_to(row) else None

    def is_accepted(self, row: MaskRow) -> bool:
        """Whether a reviewer accepted the row: what `tagmask export --reviewed` keeps."""
        found = self.find(row)
        return found is not None and found.decision == Verdict.ACCEPT

    def is_refused(self, row: MaskRow) -> bool:
        """Whether a reviewer found fault with the row, in whatever way."""
        found = self.find(row)
        return found is not None and found.decision != Verdict.ACCEPT

    def count(self) -> dict[str, int]:
        """Number of decisions of each kind, also of kinds that do not occur."""
        counts = Counter(decision.decision for decision in self.by_row.values())
        return {str(verdict): counts[verdict] for verdict in ANSWERS}


def choose_latest(decisions: Iterable[Decision]) -> Decisions:
    """Choose the decision of each row that counts, in whatever order they come."""
    latest: dict[RowId, Decision] = {}
    for decision in decisions:
        known = latest.get(decision.row_id)
        if known is None or decision.rank > known.rank:
            latest[decision.row_id] = decision
    return Decisions({row_id: one for row_id, one in latest.items() if one.decision != Verdict.WITHDRAWN})


def read_decisions(run_uri: str) -> Decisions:
    """Read the decisions of all reviewers of a run; none if it was never reviewed.

    Raises:
        ManifestError: The folder holds no run, or a file is no table of decisions or of another run.
        StorageError: The store failed.
    """
    return choose_latest(read_all_decisions(run_uri, str(read_run(run_uri)["fingerprint"])))


def read_all_decisions(run_uri: str, fingerprint: str) -> list[Decision]:
    """Read every decision that is kept, also those that later ones replace.

    Raises:
        ManifestError: A file is no table of decisions or of another run.
        StorageError: The store failed.
    """
    for is_last in (False,) * (NUM_LISTINGS - 1) + (True,):
        objects = list_objects(join_uri(run_uri, REVIEWS_FOLDER))
        uris = [item.uri for item in objects if item.uri.endswith(".parquet")]
        try:
            with ThreadPoolExecutor(NUM_THREADS) as threads:
                found = list(threads.map(lambda uri: _read_file(uri, fingerprint), uris))
            return [decision for some in found for decision in some]
        except FileNotFoundError:
            # Its session put the same decisions into a larger file.
            if is_last:
                raise
    raise AssertionError


def _read_file(uri: str, fingerprint: str) -> list[Decision]:
    payload = read_bytes(uri)
    try:
        rows = pq.read_table(io.BytesIO(payload), columns=DECISION_SCHEMA.names).to_pylist()
        decisions = [
            Decision(**row | {"decision": Verdict(row["decision"]), "classes": tuple(row["classes"])}) for row in rows
        ]
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise ManifestError(f"'{uri}' is no table of decisions: {error}; move it out of the run") from error
    if others := {decision.fingerprint for decision in decisions} - {fingerprint}:
        raise ManifestError(
            f"'{uri}' holds decisions about another run, of fingerprint {min(others)[:16]}; move it to that run"
        )
    return decisions


def encode_decisions(decisions: Sequence[Decision]) -> bytes:
    """Encode decisions as a Parquet file."""
    columns = {name: [getattr(one, name) for one in decisions] for name in DECISION_SCHEMA.names}
    columns["decision"] = [str(one) for one in columns["decision"]]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=DECISION_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def locate_reviewer(run_uri: str, reviewer: str) -> str:
    """Folder of the decisions of a reviewer."""
    return join_uri(run_uri, REVIEWS_FOLDER, name_mask_file(reviewer).removesuffix(".png"))


def require_reviewer(name: str) -> None:
    """Check the name of a reviewer.

    Raises:
        ValueError: It is empty, too long, or has characters that cannot be shown.
    """
    if not name.strip() or len(name) > MAX_REVIEWER_LETTERS or not name.isprintable():
        raise ValueError(
            f"need a name of a reviewer of 1 to {MAX_REVIEWER_LETTERS} printable characters, got {name[:120]!r}"
        )


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"need a text of whole Unicode characters, got {text[:40]!r}") from error
