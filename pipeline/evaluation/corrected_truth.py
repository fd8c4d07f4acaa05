"""Masks that persons corrected as truth for the masks of their run, which are the prediction.

Rows without a corrected mask have no truth. Rows that have one were chosen, mostly because their masks are bad: scores
on them are not those of the run.
"""

from threading import Lock

from pipeline.errors import LabellingError
from pipeline.evaluation.truth import FindTruth, TrueMasks, open_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.published.decisions import RowId
from pipeline.published.overrides import Override, Overrides, read_overrides
from pipeline.published.rows import iterate_rows
from pipeline.published.run import PublishedRun, open_published

CORRECTED = "overrides"
"""What stands in place of a folder of true masks."""
COLUMNS = ("status", "image_sha256")
REMARK = (
    "the true masks are corrected ones, of rows that somebody chose to correct, mostly the worst: scores on them are "
    "not those of the whole run"
)


class CorrectedTruth:
    """Corrected masks of a run, by manifest and key; remembers which of them belong to a row."""

    def __init__(self, run: PublishedRun, overrides: Overrides) -> None:
        """Read no mask yet."""
        self._run = run
        self._overrides = overrides
        self._shard_names = {row_id.shard for row_id in overrides}
        self._used: set[RowId] = set()
        self._lock = Lock()

    def of_manifest(self, manifest_uri: str) -> FindTruth:
        """Make the finder of the rows of one manifest: from key to encoded mask, or None.

        The same key may stand in several shards. Labelled rows of a shard have keys of their own.

        Raises:
            ManifestError: The manifest is damaged or of another run.
        """
        by_key: dict[str, Override] = {}
        # Whole URIs of a run may be written in several ways.
        if manifest_uri.rsplit("/", 1)[-1].removesuffix(".parquet") in self._shard_names:
            rows = sorted(iterate_rows(self._run, manifest_uri, columns=COLUMNS), key=lambda row: row.is_labelled)
            by_key = {row.key: found for row in rows if (found := self._overrides.find(row)) is not None}

        def find(key: str) -> bytes | None:
            found = by_key.get(key)
            if found is None:
                return None
            with self._lock:
                self._used.add(found.row_id)
            return self._overrides.read_png(found)

        return find

    def list_unused(self) -> list[str]:
        """List the rows, as shard/index, whose corrected mask was not asked for so far."""
        return [f"{row_id.shard}/{row_id.place}" for row_id in self._overrides if row_id not in self._used]


Truth = TrueMasks | CorrectedTruth


def bind_truth(truth: "FindTruth | CorrectedTruth", manifest_uri: str) -> FindTruth:
    """The finder of true masks for the rows of one manifest."""
    return truth.of_manifest(manifest_uri) if isinstance(truth, CorrectedTruth) else truth


def choose_frame(truth: "FindTruth | CorrectedTruth", frame: str) -> TruthFrame:
    """Frame of true masks; corrected ones are on the stored pixels, whatever is given."""
    return TruthFrame.STORED if isinstance(truth, CorrectedTruth) else TruthFrame(frame)


def open_any_truth(truth_uri: str, run_uri: str) -> Truth:
    """Open true masks: a folder or tar, or `CORRECTED` for those of the run.

    Raises:
        LabellingError: There are none.
        ManifestError: The folder of the run holds none, or corrected masks that are damaged or of another run.
    """
    if truth_uri != CORRECTED:
        return open_truth(truth_uri)
    overrides = read_overrides(run_uri)
    if not overrides:
        raise LabellingError(
            f"'{run_uri}' has no corrected masks to serve as truth; bring some back by tagmask import-masks, or give a "
            "folder of true masks"
        )
    return CorrectedTruth(open_published(run_uri), overrides)
