"""Report of a labelling run: figures, and pictures of photo, class maps, mask and truth.

manifests -> a sample of them -> figures; picked rows + their photos from the input shards -> HTML
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from pipeline.commit.manifests import Manifest, list_manifests, open_manifest
from pipeline.evaluation.truth import FindTruth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.images.masks import build_palette
from pipeline.reports.page import Table, render_page
from pipeline.reports.pictures import make_examples
from pipeline.run.counts import LabelCounts
from pipeline.run.records import Status
from pipeline.run.run_file import read_config, read_run
from pipeline.run.vocabulary import Vocabulary, parse_vocabulary

MAX_MANIFESTS = 32
"""Largest number of manifests for figures and pictures, taken evenly over the run."""
NUM_UNKNOWN_TAGS = 20


@dataclass(kw_only=True)
class _Figures:
    """Sums over the sampled manifests."""

    num_images: Counter[int] = field(default_factory=Counter)
    sums: Counter[tuple[int, str]] = field(default_factory=Counter)
    nums: Counter[tuple[int, str]] = field(default_factory=Counter)
    unknown_tags: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        self.unknown_tags.update(row["tags_unknown"] or [])
        for entry in row["classes"] or []:
            self.num_images[entry["class_id"]] += 1
            for name in ("presence", "area_fraction", "confidence_mean", "stability"):
                if entry[name] is not None:
                    self.sums[entry["class_id"], name] += entry[name]
                    self.nums[entry["class_id"], name] += 1

    def average(self, class_id: int, name: str) -> str:
        number = self.nums[class_id, name]
        return f"{self.sums[class_id, name] / number:.2f}" if number else "-"


def build_report(
    labels_uri: str,
    *,
    find_truth: FindTruth | None = None,
    num_images: int = 24,
    rng_seed: int = 0,
    tables: Sequence[Table] = (),
    title: str = "tagmask",
    frame: TruthFrame = TruthFrame.AUTO,
) -> str:
    """Build the page of a labelling run.

    Args:
        labels_uri: Output of tagmask label.
        find_truth: From key to encoded true mask, or None.
        num_images: Images in the gallery.
        rng_seed: Decides which images.
        tables: Shown first.
        title: Of the page.
        frame: Of the true masks.

    Returns:
        HTML without links to other files.

    Raises:
        TruthFrameError: A true mask fits its image in both frames, and nothing tells in which it is.
    """
    run = read_run(labels_uri)
    vocabulary = parse_vocabulary(run["vocabulary"])
    inputs = read_config(labels_uri, run).inputs
    uris = list_manifests(labels_uri)
    # The first and the last one, too, unlike `take_evenly`.
    places = np.unique(np.linspace(0, len(uris) - 1, min(MAX_MANIFESTS, len(uris))).astype(int))
    manifests = [open_manifest(uris[place]) for place in places]
    figures = _Figures()
    rng = np.random.default_rng(rng_seed)
    picked = _pick_rows(manifests, figures, num_images, rng)
    palette = build_palette(vocabulary.colours, vocabulary.classes)
    examples = [
        example
        for manifest, rows in picked
        for example in make_examples(manifest, rows, inputs, vocabulary, palette, find_truth, frame)
    ]
    return render_page(
        title=title,
        tables=[*tables, *_make_tables(run, manifests, len(uris), figures, vocabulary)],
        galleries={"": examples},
        vocabulary=vocabulary,
    )


def _pick_rows(
    manifests: Sequence[Manifest], figures: _Figures, num_images: int, rng: np.random.Generator
) -> list[tuple[Manifest, list[dict[str, Any]]]]:
    """Sum the figures, and pick rows so that every class is shown about equally often."""
    columns = ["key", "index", "status", "class_ids", "tags_unknown", "classes"]
    candidates: list[tuple[int, dict[str, Any]]] = []
    for place, manifest in enumerate(manifests):
        for row in manifest.iterate_rows(columns):
            figures.add(row)
            if row["status"] == Status.LABELLED:
                candidates.append((place, {name: row[name] for name in ("index", "class_ids")}))
    shown: Counter[int] = Counter()
    wanted: dict[int, set[int]] = {}
    order = [int(index) for index in rng.permutation(len(candidates))]
    for _ in range(min(num_images, len(order))):
        best = min(order, key=lambda index: min(shown[class_id] for class_id in candidates[index][1]["class_ids"]))
        order.remove(best)
        place, row = candidates[best]
        shown.update(row["class_ids"])
        wanted.setdefault(place, set()).add(row["index"])
    return [
        (manifests[place], [row for row in manifests[place].iterate_rows() if row["index"] in indices])
        for place, indices in sorted(wanted.items())
    ]


def _make_tables(
    run: Mapping[str, Any],
    manifests: Sequence[Manifest],
    num_manifests: int,
    figures: _Figures,
    vocabulary: Vocabulary,
) -> list[Table]:
    counts = reduce(LabelCounts.merge, (LabelCounts.from_dict(manifest.footer["counts"]) for manifest in manifests))
    sampled = f"from {len(manifests)} of {num_manifests} manifests"
    facts = (
        ("shards published", f"{num_manifests} of {len(run['inputs'])}"),
        (f"images ({sampled})", f"{counts.num_read}"),
        ("labelled", f"{counts.num_labelled}"),
        *((f"rejected, {reason}", f"{number}") for reason, number in sorted(counts.rejected_by_reason.items())),
        ("model", run["model_digest"][:16]),
        ("run", run["fingerprint"][:16]),
        ("library version", run["library_version"]),
    )
    columns = ("presence", "area_fraction", "confidence_mean", "stability")
    classes = tuple(
        (name, str(figures.num_images[index]), *(figures.average(index, column) for column in columns))
        for index, name in enumerate(vocabulary.classes, start=1)
    )
    unknown = figures.unknown_tags.most_common(NUM_UNKNOWN_TAGS)
    header = ("class", "images", "presence", "area", "confidence", "stability")
    tables = [
        Table(title="Run", header=("", ""), rows=facts),
        Table(title="Classes", header=header, rows=classes, note=f"Means over the images of a class, {sampled}."),
    ]
    if unknown:
        rows = tuple((tag, str(number)) for tag, number in unknown)
        tables.append(Table(title="Unknown tags", header=("tag", "images"), rows=rows))
    return tables
