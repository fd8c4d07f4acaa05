"""The decisions of one session of one reviewer: each is stored when `add` returns."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from pipeline.errors import StorageError
from pipeline.published.decisions import (
    Decision,
    Decisions,
    RowId,
    Verdict,
    choose_latest,
    encode_decisions,
    locate_reviewer,
    read_all_decisions,
    require_reviewer,
)
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import delete, put_atomic

logger = logging.getLogger(__name__)

MAX_SMALL_FILES = 200
"""Files of one decision before the session merges them into one."""


class DecisionLog:
    """Decisions of all reviewers as they were at the start, and those of this session, which it stores.

    A file has the name of its session, which no other session has: reviewers on several machines do not meet.
    """

    def __init__(
        self,
        run_uri: str,
        fingerprint: str,
        reviewer: str,
        session: str,
        clock: Callable[[], datetime],
        max_small_files: int = MAX_SMALL_FILES,
    ) -> None:
        """Read the decisions that are there.

        Args:
            run_uri: Output folder of the run.
            fingerprint: Of the run.
            reviewer: Name of the reviewer.
            session: A text that no other session has; it starts the names of the files.
            clock: The time now, with its zone.
            max_small_files: Files of one decision before they are merged.

        Raises:
            ValueError: The name of the reviewer cannot be used.
            ManifestError: A file is no table of decisions or of another run.
            StorageError: The store failed.
        """
        require_reviewer(reviewer)
        self.reviewer = reviewer
        self._session = session
        self._folder_uri = locate_reviewer(run_uri, reviewer)
        self.clock = clock
        self._max_small_files = max_small_files
        everything = read_all_decisions(run_uri, fingerprint)
        self._latest = dict(choose_latest(everything))
        self._times: dict[RowId, datetime] = {}
        for decision in everything:
            known = self._times.get(decision.row_id)
            self._times[decision.row_id] = decision.time if known is None else max(known, decision.time)
        self._own: list[Decision] = []
        self._merged_uri: str | None = None
        self._small_uris: list[str] = []
        self._lock = threading.Lock()

    @property
    def decisions(self) -> Decisions:
        """The decisions that count now."""
        with self._lock:
            return Decisions(dict(self._latest))

    @property
    def num_made(self) -> int:
        """Number of decisions of this session, those taken back too."""
        return len(self._own)

    def get(self, row_id: RowId) -> Decision | None:
        """The decision about a row that counts now."""
        return self._latest.get(row_id)

    def add(self, decision: Decision) -> Decision:
        """Store a decision, and return it as it is stored.

        Its time becomes later than that of every decision about the row that this session knows, whatever clocks say.

        Raises:
            StorageError: The store failed; the decision before counts.
        """
        with self._lock:
            now, known = decision.time, self._times.get(decision.row_id)
            if known is not None and now <= known:
                now = known + timedelta(microseconds=1)
            decision = replace(decision, time=now)
            uri = join_uri(self._folder_uri, f"{self._session}-{len(self._own):06d}.parquet")
            put_atomic(uri, encode_decisions([decision]))
            self._own.append(decision)
            self._small_uris.append(uri)
            self._times[decision.row_id] = now
            if decision.decision == Verdict.WITHDRAWN:
                self._latest.pop(decision.row_id, None)
            else:
                self._latest[decision.row_id] = decision
            if len(self._small_uris) >= self._max_small_files:
                self._merge()
            return decision

    def close(self) -> None:
        """Merge the files of this session into one; without it they are as good, and more."""
        with self._lock:
            if len(self._small_uris) > 1 or (self._small_uris and self._merged_uri):
                self._merge()

    def _merge(self) -> None:
        uri = join_uri(self._folder_uri, f"{self._session}-first-{len(self._own):06d}.parquet")
        old = [*self._small_uris, *([self._merged_uri] if self._merged_uri else [])]
        try:
            put_atomic(uri, encode_decisions(self._own))
            self._merged_uri, self._small_uris = uri, []
            delete(old)
        except (StorageError, OSError) as error:
            # Everything is stored in the small files; the next merge writes all of it again.
            logger.warning("the files of decisions in '%s' were not merged: %s", self._folder_uri, error)
