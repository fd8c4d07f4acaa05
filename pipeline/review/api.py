"""What the page asks for and is answered; knows no HTTP.

Ids of rows are `shard/index`, as in `photos-0/12`: the same key may stand in several shards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Int8

from pipeline.evaluation.truth import TrueMasks, decode_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.images.masks import decode_class_maps
from pipeline.images.orientation import turn_upright
from pipeline.published.corrected_rows import correct_row
from pipeline.published.decisions import ANSWERS, Decision, RowId, Verdict, compute_mask_digest
from pipeline.published.overrides import Overrides
from pipeline.published.rows import MaskRow
from pipeline.published.run import PublishedRun
from pipeline.review.decision_log import DecisionLog
from pipeline.review.index import REASONS, STATUSES, RowIndex, RowTable
from pipeline.review.pictures import MAX_SIZE_PX, MIN_SIZE_PX, Picture, make_map, make_mask, make_photo
from pipeline.review.queries import QueryCache, RowQuery
from pipeline.review.run_rows import CLASS_MAPS, FIGURES, MASK, RunRows

ORIGIN = ("tool", "source", "annotator", "time")
"""What is said of a corrected mask."""
MAX_ROWS = 500
"""Rows of one answer."""


class NotThereError(Exception):
    """What is asked for is not there; the text says what."""


@dataclass(frozen=True)
class Truth:
    """True masks to show beside."""

    masks: TrueMasks
    frame: TruthFrame = TruthFrame.AUTO


class ReviewApi:
    """Answers about one run; a second one may stand beside it."""

    def __init__(
        self,
        runs: Sequence[PublishedRun],
        index: RowIndex,
        log: DecisionLog,
        truth: Truth | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            runs: The run that is reviewed, and those to compare it with.
            index: Of the first run.
            log: Decisions about the first run.
            truth: True masks, if there are any.
            overrides: Corrected masks of the first run, if there are any.
        """
        self.run = runs[0]
        self._index = index
        self._log = log
        self._truth = truth
        self._overrides = overrides or Overrides()
        self._rows = [RunRows(run) for run in runs]
        self._cache = QueryCache()
        self._decided = np.zeros(0, np.int8)
        self._decided_table: RowTable | None = None
        self._version = 0
        self._lock = Lock()

    def describe_run(self) -> dict[str, Any]:
        """Describe the runs, and how far the first one is indexed."""
        run, table = self.run, self._index.get_table()
        return {
            "runs": [{"uri": rows.run.uri, "name": rows.run.uri.rstrip("/").rpartition("/")[2]} for rows in self._rows],
            "classes": [
                {"id": class_id, "name": name, "colour": [int(one) for one in run.palette[class_id]]}
                for class_id, name in enumerate(run.class_names)
            ],
            "statuses": [str(one) for one in STATUSES],
            "reasons": [str(one) for one in REASONS],
            "decisions": [str(one) for one in ANSWERS],
            "num_rows": table.num_rows,
            "indexed": self._describe_progress(table),
            "failures": list(self._index.failures),
            "has_truth": self._truth is not None,
            "has_maps": run.config.maps.keep_maps,
            "reviewer": self._log.reviewer,
        }

    def list_rows(self, query: RowQuery, order: str, offset: int, limit: int) -> dict[str, Any]:
        """List some of the kept rows.

        Raises:
            ValueError: The order, offset or limit is out of range.
        """
        if offset < 0 or not 0 < limit <= MAX_ROWS:
            raise ValueError(f"need offset >= 0 and limit from 1 to {MAX_ROWS}, got {offset} and {limit}")
        table, decided, version = self._get_state()
        numbers = self._cache.sort(table, decided, version, query, order)
        rows = [self._describe_row(table, int(number)) for number in numbers[offset : offset + limit]]
        return {"total": len(numbers), "indexed": self._describe_progress(table), "rows": rows}

    def count(self, query: RowQuery) -> dict[str, Any]:
        """Count the kept rows by class, status, reason, decision and flags."""
        table, decided, version = self._get_state()
        return {**self._cache.count(table, decided, version, query), "indexed": self._describe_progress(table)}

    def show_row(self, row_id: str) -> dict[str, Any]:
        """Every column of a row but the large ones, and its decision.

        Raises:
            NotThereError: There is no such row.
        """
        row = self._read(row_id, FIGURES)
        names, corrected = self.run.class_names, self._overrides.find(row)
        return {
            **row.values,
            "id": row_id,
            "tags": list(row.class_names),
            "classes": [{**one, "name": names[one["class_id"]]} for one in row.get("classes") or ()],
            "orientation": row.orientation,
            "corrected": corrected and {name: str(getattr(corrected, name) or "") for name in ORIGIN},
            "decision": self._show_decision(parse_row_id(row_id)),
        }

    def show_image(self, row_id: str, size_px: int | None) -> Picture:
        """The photo of a row.

        Raises:
            NotThereError: There is no such row, or its sample has no image.
            PictureError: The image cannot be shown.
            ShardError: The shard or the image is gone or changed.
        """
        _require_size(size_px)
        row = self._read(row_id, FIGURES)
        if not row.has_image:
            raise NotThereError(f"the sample has no image: {row.get('reason')}")
        content = self._rows[0].read_image(self._rows[0].numbers[row.shard_name], row)
        return make_photo(content, self.run.config.inputs.max_image_pixels, size_px)

    def show_mask(self, row_id: str, number: int, size_px: int | None, *, is_overlay: bool) -> Picture:
        """The mask of a row in one of the runs.

        Raises:
            NotThereError: The run has no such row, or the row has no mask there.
        """
        _require_size(size_px)
        row = self._read(row_id, FIGURES, MASK, number=number)
        if number and row.get("image_sha256") != self._read(row_id, FIGURES).get("image_sha256"):
            raise NotThereError(f"row '{row_id}' of run '{self._rows[number].run.uri}' is another image")
        if row.get("mask") is None or row.get("mask")["bytes"] is None:
            raise NotThereError(f"the row has no mask: {row.get('reason')}")
        palette = self._rows[number].run.palette
        return make_mask(row.upright_mask(), palette, size_px=size_px, is_overlay=is_overlay)

    def show_truth(self, row_id: str) -> Picture:
        """The true mask of a row.

        Raises:
            NotThereError: There is none.
            LabellingError: It cannot be read, or does not fit the image.
        """
        row = self._read(row_id, FIGURES)
        payload = None if self._truth is None else self._truth.masks(row.key)
        if payload is None or self._truth is None or row.get("width") is None:
            raise NotThereError(f"there is no true mask of '{row.key}'")
        shape, orientation = (row.get("height"), row.get("width")), row.orientation
        num_classes = len(self.run.class_names) - 1
        truth = decode_truth(payload, row.key, shape, num_classes, orientation, self._truth.frame)
        return make_mask(np.ascontiguousarray(turn_upright(truth, orientation)), self.run.palette)

    def show_corrected(self, row_id: str) -> Picture:
        """The corrected mask of a row.

        Raises:
            NotThereError: There is none.
            ManifestError: It is gone or damaged.
        """
        row = self._read(row_id, FIGURES, MASK)
        if self._overrides.find(row) is None:
            raise NotThereError(f"there is no corrected mask of '{row.key}'")
        return make_mask(correct_row(self._overrides, row).upright_mask(), self.run.palette)

    def show_map(self, row_id: str, class_id: int) -> Picture:
        """The kept class map of a class of a row.

        Raises:
            NotThereError: The run kept none, or none of this class.
        """
        row = self._read(row_id, FIGURES, CLASS_MAPS)
        record, ids = row.get("class_maps"), row.get("class_ids") or []
        if record is None or class_id not in ids:
            raise NotThereError(f"no map of class {class_id} was kept for row '{row_id}'")
        return make_map(decode_class_maps(record)[ids.index(class_id)])

    def decide(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Store a decision, and return it as it is stored.

        Raises:
            NotThereError: There is no such row.
            ValueError: A field is missing or of a wrong value.
            StorageError: The store failed; nothing was stored.
        """
        texts = {name: fields.get(name, "") for name in ("id", "decision", "note")}
        classes = fields.get("classes") or []
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(classes, list):
            raise ValueError("need the texts id, decision and note, and a list of classes")
        if texts["decision"] not in [str(one) for one in ANSWERS]:
            raise ValueError(f"need a decision from {', '.join(ANSWERS)}; got {texts['decision']!r}")
        known = self.run.class_names[1:]
        if unknown := [name for name in classes if name not in known]:
            raise ValueError(f"the run has no class {unknown[0]!r}; it has {', '.join(known[:10])}")
        return self._store(texts["id"], Verdict(texts["decision"]), tuple(dict.fromkeys(classes)), texts["note"])

    def withdraw(self, row_id: str) -> dict[str, Any]:
        """Take the decision about a row back.

        Raises:
            NotThereError: There is none.
            StorageError: The store failed; the decision stays.
        """
        if self._log.get(parse_row_id(row_id)) is None:
            raise NotThereError(f"there is no decision about '{row_id}'")
        return self._store(row_id, Verdict.WITHDRAWN, (), "")

    def summarise(self) -> dict[str, Any]:
        """Count the decisions of all reviewers, and of this session."""
        return {"decisions": self._log.decisions.count(), "session": self._log.num_made, "reviewer": self._log.reviewer}

    def _store(self, row_id: str, verdict: Verdict, classes: tuple[str, ...], note: str) -> dict[str, Any]:
        place, row = parse_row_id(row_id), self._read(row_id, FIGURES, MASK)
        self._log.add(
            Decision(
                shard=place.shard,
                index=place.place,
                key=row.key,
                decision=verdict,
                classes=classes,
                note=note,
                reviewer=self._log.reviewer,
                time=self._log.clock(),
                fingerprint=str(self.run.record["fingerprint"]),
                image_sha256=row.get("image_sha256"),
                mask_sha256=compute_mask_digest(row.get("mask")),
            )
        )
        with self._lock:
            self._version += 1
            if self._decided_table is not None:
                self._mark(self._decided_table, place)
        return {"id": row_id, "decision": self._show_decision(place)}

    def _read(self, row_id: str, *column_groups: Sequence[str], number: int = 0) -> MaskRow:
        place = parse_row_id(row_id)
        if not 0 <= number < len(self._rows):
            raise NotThereError(f"there is no run {number}; there are {len(self._rows)}")
        rows = self._rows[number]
        try:
            return rows.read(rows.numbers[place.shard], place.place, *column_groups)
        except KeyError as error:
            raise NotThereError(f"run '{rows.run.uri}' has no row '{row_id}'") from error

    def _describe_row(self, table: RowTable, number: int) -> dict[str, Any]:
        shard, index = table.locate(number)
        quality, reason, names = float(table.quality[number]), int(table.reason[number]), self.run.class_names
        place = RowId(self.run.shards[shard].name, index)
        ids = table.class_ids.get(number)
        return {
            "id": f"{place.shard}/{index}",
            "key": table.keys[number].as_py(),
            "shard": place.shard,
            "index": index,
            "status": str(STATUSES[table.status[number]]),
            "reason": None if reason < 0 else str(REASONS[reason]),
            "error": table.errors[number].as_py(),
            "quality": None if np.isnan(quality) else quality,
            "tags": [names[one] for one in ids],
            "class_ids": ids,
            "suggested_class_ids": table.suggested.get(number),
            "doubtful_class_ids": table.doubtful.get(number),
            "width": int(table.width[number]) or None,
            "height": int(table.height[number]) or None,
            "orientation": int(table.orientation[number]),
            "corrected": place in self._overrides,
            "decision": self._show_decision(place),
        }

    def _describe_progress(self, table: RowTable) -> dict[str, int]:
        return {"shards": table.num_shards, "of": len(self.run.shards)}

    def _show_decision(self, place: RowId) -> dict[str, Any] | None:
        found = self._log.get(place)
        if found is None:
            return None
        return {
            "decision": str(found.decision),
            "classes": list(found.classes),
            "note": found.note,
            "reviewer": found.reviewer,
            "time": found.time.isoformat(),
        }

    def _get_state(self) -> tuple[RowTable, Int8[np.ndarray, " rows"], int]:
        """The rows, the place of their decisions in `ANSWERS`, and the version of these."""
        table = self._index.get_table()
        with self._lock:
            if self._decided_table is not table:
                self._decided = np.full(table.num_rows, -1, np.int8)
                for place in self._log.decisions:
                    self._mark(table, place)
                self._decided_table = table
            return table, self._decided, self._version

    def _mark(self, table: RowTable, place: RowId) -> None:
        number = self._rows[0].numbers.get(place.shard)
        row = None if number is None else table.find_number(number, place.place)
        if row is not None:
            found = self._log.get(place)
            self._decided[row] = -1 if found is None else ANSWERS.index(found.decision)


def parse_row_id(text: str) -> RowId:
    """Parse the id of a row.

    >>> parse_row_id("photos-0/12")
    RowId(shard='photos-0', place=12)

    Raises:
        NotThereError: It is not an id.
    """
    shard, _, index = text.rpartition("/")
    if not shard or not index.isascii() or not index.isdigit() or len(index) > 18:
        raise NotThereError(f"'{text}' is not the id of a row")
    return RowId(shard, int(index))


def _require_size(size_px: int | None) -> None:
    if size_px is not None and not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
        raise ValueError(f"need a size from {MIN_SIZE_PX} to {MAX_SIZE_PX}, got {size_px}")
