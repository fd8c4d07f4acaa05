"""Report of a labelling run: figures, and pictures of photo, class maps, mask and truth.

manifests -> a sample of them -> figures; chosen rows + their photos from the input shards -> HTML
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
from pipeline.reports.examples import ExampleMaker
from pipeline.reports.page import Gallery, Table, render_page
from pipeline.reports.row_choice import Candidates, gather_candidates
from pipeline.run.counts import LabelCounts
from pipeline.run.run_file import read_config, read_run
from pipeline.run.vocabulary import Vocabulary, parse_vocabulary

MAX_MANIFESTS = 32
"""Largest number of manifests for figures and pictures, taken evenly over the run."""
NUM_UNKNOWN_TAGS = 20
WORST_PART = 3
"""One of so many images in the galleries is one of lowest quality, if the run has more than the galleries show."""
MAX_REJECTED = 12
"""Rejected images on a page."""
ORDER = "Worst first by quality."


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
        num_images: Labelled images in the galleries.
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
    for manifest in manifests:
        for row in manifest.iterate_rows(["tags_unknown", "classes"]):
            figures.add(row)
    candidates = gather_candidates(manifests, MAX_REJECTED)
    maker = ExampleMaker(vocabulary=vocabulary, inputs=inputs, find_truth=find_truth, frame=frame)
    return render_page(
        title=title,
        tables=[*tables, *_make_tables(run, manifests, len(uris), figures, vocabulary)],
        galleries=_make_galleries(candidates, maker, num_images, np.random.default_rng(rng_seed)),
        vocabulary=vocabulary,
    )


def _make_galleries(
    candidates: Candidates, maker: ExampleMaker, num_images: int, rng: np.random.Generator
) -> list[Gallery]:
    """Make galleries of the worst masks, of a sample of the others, and of rejected images."""
    num = len(candidates.labelled)
    worst = candidates.choose_worst(num_images // WORST_PART) if num > num_images else []
    sample = candidates.choose_by_class(num_images - len(worst), rng, without=worst)
    galleries = [
        Gallery(heading=f"The {len(worst)} masks of lowest quality of {num}", examples=maker.make(worst), note=ORDER),
        Gallery(
            heading="Others, each class about equally often" if worst else "Masks",
            examples=maker.make(sample),
            note=ORDER,
        ),
        make_rejected_gallery(candidates, maker),
    ]
    # A page without a mask says so.
    return [gallery for place, gallery in enumerate(galleries) if gallery.examples or place == 1]


def make_rejected_gallery(candidates: Candidates, maker: ExampleMaker) -> Gallery:
    """Make a gallery of rejected images, some of each reason."""
    return Gallery(
        heading="Rejected images",
        examples=maker.make(candidates.choose_rejected()),
        note="Some of each reason, with the picture where it can be decoded.",
    )


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
