"""Choice of the rows that a page shows: the worst, some of each class, some of each reason of rejection."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.commit.manifests import Manifest
from pipeline.reports.examples import RowPlace
from pipeline.run.records import Status

CHOICE_COLUMNS = ("index", "status", "reason", "class_ids", "quality")


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Rows that a page may show."""

    labelled: list[tuple[RowPlace, float, tuple[int, ...]]] = field(default_factory=list)
    """Place, quality and classes."""
    rejected: dict[str, list[RowPlace]] = field(default_factory=lambda: defaultdict(list))
    """The first few of each reason."""
    most_rejected: int

    def add(self, manifest_uri: str, row: Mapping[str, Any]) -> None:
        """Add a row with `CHOICE_COLUMNS`."""
        place = RowPlace(manifest_uri, row["index"])
        if row["status"] == Status.LABELLED:
            quality = -1.0 if row["quality"] is None else row["quality"]
            self.labelled.append((place, quality, tuple(row["class_ids"])))
        elif len(self.rejected[row["reason"]]) < self.most_rejected:
            self.rejected[row["reason"]].append(place)

    def choose_worst(self, num: int) -> list[RowPlace]:
        """Choose the rows of lowest quality, worst first."""
        return self._sort(sorted(self.labelled, key=lambda one: one[1])[:num])

    def choose_by_class(self, num: int, rng: np.random.Generator, without: Iterable[RowPlace] = ()) -> list[RowPlace]:
        """Choose random rows so that every class is shown about equally often, worst first."""
        passed_over = set(without)
        rows = [one for one in self.labelled if one[0] not in passed_over]
        order = [int(index) for index in rng.permutation(len(rows))]
        shown: Counter[int] = Counter()
        chosen = []
        for _ in range(min(num, len(order))):
            best = min(order, key=lambda index: min((shown[class_id] for class_id in rows[index][2]), default=0))
            order.remove(best)
            shown.update(rows[best][2])
            chosen.append(rows[best])
        return self._sort(chosen)

    def choose_rejected(self) -> list[RowPlace]:
        """Choose rejected rows, the reasons in turn, and list them by reason."""
        chosen: dict[str, list[RowPlace]] = {reason: [] for reason in sorted(self.rejected)}
        for turn in range(self.most_rejected):
            for reason, places in sorted(self.rejected.items()):
                if turn < len(places) and sum(map(len, chosen.values())) < self.most_rejected:
                    chosen[reason].append(places[turn])
        return [place for places in chosen.values() for place in places]

    @staticmethod
    def _sort(rows: Sequence[tuple[RowPlace, float, tuple[int, ...]]]) -> list[RowPlace]:
        return [place for place, _, _ in sorted(rows, key=lambda one: (one[1], one[0]))]


def gather_candidates(manifests: Iterable[Manifest], most_rejected: int) -> Candidates:
    """Gather the candidates of manifests."""
    candidates = Candidates(most_rejected=most_rejected)
    for manifest in manifests:
        for row in manifest.iterate_rows(CHOICE_COLUMNS):
            candidates.add(manifest.uri, row)
    return candidates
