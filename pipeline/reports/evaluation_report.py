"""Report of an evaluation: scores, rank correlations of columns, curves, the best and the worst masks."""

from collections.abc import Sequence

import numpy as np

from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.evaluation.boundaries import score_boundaries
from pipeline.evaluation.corrected_truth import CorrectedTruth
from pipeline.evaluation.quality_ranks import ScoredImage, bin_by_quality, rank_columns
from pipeline.evaluation.review_effort import BAD_IOU, FOUND_FRACTION, measure_effort, trace_found
from pipeline.evaluation.sampling import take_evenly
from pipeline.evaluation.scores import NUM_THRESHOLDS, EvaluationCounts, Scores
from pipeline.evaluation.truth import FindTruth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.reports.charts import Chart, draw
from pipeline.reports.examples import ExampleMaker, RowPlace
from pipeline.reports.label_report import MAX_MANIFESTS, MAX_REJECTED, make_rejected_gallery
from pipeline.reports.page import Gallery, Table, list_colours, render_page
from pipeline.reports.row_choice import gather_candidates
from pipeline.run.run_file import read_config, read_run
from pipeline.run.vocabulary import BACKGROUND, Vocabulary, parse_vocabulary

MEAN_COLOUR, BACKGROUND_COLOUR = "#000000", "#8a8f98"
"""Of their curves; those of the classes have the colours of the masks."""
NUM_EXAMPLES = 8
"""Examples of the best masks, and as many of the worst."""


def make_score_table(
    counts: EvaluationCounts, class_names: Sequence[str], used: Scores, curve: Sequence[Scores]
) -> Table:
    """Table with a row for each class: scores of the masks, and IoU at the best threshold."""
    best = find_best(curve)
    edges = [float("nan"), *score_boundaries(counts.boundaries)]
    columns = [used.iou, used.precision, used.recall, np.array(edges)]
    header = ["in %", "IoU", "precision", "recall", "boundary F"]
    if best is not None:
        columns.append(curve[best].iou)
        header.append(f"IoU at t = {best / NUM_THRESHOLDS:.2f}")
    names = ["background", *class_names]
    rows = [(name, *(show_percent(column[index]) for column in columns)) for index, name in enumerate(names)]
    means = ("mean", *(show_percent(average(column)) for column in columns))
    return Table(
        title="Scores",
        header=tuple(header),
        rows=(*rows, means),
        note="" if best is None else "The last column is at the threshold that is best for this truth: an oracle.",
    )


def make_image_table(counts: EvaluationCounts, unused: Sequence[str], remarks: Sequence[str]) -> Table:
    """Table of the images and true masks that are scored, and of those that are not.

    Args:
        counts: Of all manifests.
        unused: True masks that belong to no image.
        remarks: Lines about what looks wrong.
    """
    rows = {
        "images, scored": counts.num_images,
        "images without a true mask": counts.num_without_truth,
        "images whose true mask cannot be used": counts.num_bad_truth,
        "rejected samples": counts.num_rejected,
        "true masks without an image": len(unused),
        "scored images with tags whose true mask has no class": counts.num_tagged_without_class,
        "scored images with tags whose true mask has other classes": counts.num_tagged_other_class,
    }
    return Table(
        title="Images and true masks",
        header=("what", "number"),
        rows=tuple((name, str(number)) for name, number in rows.items()),
        note=". ".join(remark[:1].upper() + remark[1:] for remark in remarks),
    )


def make_rank_table(images: Sequence[ScoredImage]) -> Table:
    """Table with a row for each column of the manifest: its rank correlation with the true IoU."""
    ranked = sorted(
        rank_columns(images), key=lambda score: (score.of != "image", -abs(np.nan_to_num(score.correlation)))
    )
    return Table(
        title="What the columns say of the true IoU",
        header=("column", "of", "rank correlation", "IoU, lowest tenth", "IoU, highest tenth", "values"),
        rows=tuple(
            (
                score.column,
                score.of,
                "-" if np.isnan(score.correlation) else f"{score.correlation:+.2f}",
                show_percent(score.lowest_tenth_iou),
                show_percent(score.highest_tenth_iou),
                str(score.num_values),
            )
            for score in ranked
        ),
        note="Spearman's correlation; 0 says nothing, 1 and -1 say all. Of an image: mean IoU of the classes it shows.",
    )


def make_effort_table(images: Sequence[ScoredImage]) -> Table | None:
    """Table of the images to look at until most of the bad ones are found; None if that cannot be measured."""
    effort = measure_effort(images)
    if effort is None:
        return None
    numbers = {
        "worst first by quality": effort.by_quality,
        "random": effort.at_random,
        "best possible": effort.num_wanted,
    }
    return Table(
        title="What reviewing takes",
        header=("order", "images to look at", "share of all in %"),
        rows=tuple(
            (name, f"{number:.0f}", show_percent(number / effort.num_images)) for name, number in numbers.items()
        ),
        note=f"Until {effort.num_wanted} of the {effort.num_bad} masks with an IoU below {BAD_IOU} are found "
        f"({FOUND_FRACTION:.0%}). Of an image: mean IoU of the classes it shows.",
    )


def render_evaluation(
    labels_uri: str,
    counts: EvaluationCounts,
    images: Sequence[ScoredImage],
    used: Scores,
    curve: Sequence[Scores],
    find_truth: FindTruth | CorrectedTruth,
    first_tables: Sequence[Table] = (),
    frame: TruthFrame = TruthFrame.AUTO,
) -> str:
    """Render the page of an evaluation.

    Args:
        labels_uri: Output of tagmask label.
        counts: Of all its manifests.
        images: Those with a true mask.
        used: Scores of the masks.
        curve: Scores by threshold; empty without kept maps.
        find_truth: From key to encoded true mask, or None; or the corrected masks of the run.
        first_tables: Shown above the scores.
        frame: Of the true masks.
    """
    run = read_run(labels_uri)
    vocabulary = parse_vocabulary(run["vocabulary"])
    inputs = read_config(labels_uri, run).inputs
    ordered = sorted(images, key=lambda image: image.iou)
    num = min(NUM_EXAMPLES, len(ordered) // 2)
    maker = ExampleMaker(vocabulary=vocabulary, inputs=inputs, find_truth=find_truth, frame=frame, iou_first=True)
    manifests = map(open_manifest, take_evenly(list_manifests(labels_uri), MAX_MANIFESTS))
    galleries = [
        Gallery(
            heading=f"The worst of {len(ordered)} masks",
            examples=maker.make([RowPlace(image.manifest_uri, image.place) for image in ordered[:num]]),
            note="Lowest IoU first: the mean over the classes in mask or truth, without the background.",
        ),
        Gallery(
            heading="The best",
            examples=maker.make([RowPlace(image.manifest_uri, image.place) for image in ordered[::-1][:num]]),
            note="Highest IoU first.",
        ),
        make_rejected_gallery(gather_candidates(manifests, MAX_REJECTED), maker),
    ]
    tables = [*first_tables, make_score_table(counts, vocabulary.classes, used, curve)]
    effort, ranks = make_effort_table(images), make_rank_table(images)
    return render_page(
        title=f"{labels_uri} against the truth",
        tables=[*tables, *([effort] if effort else []), *([ranks] if ranks.rows else [])],
        charts=[draw(chart) for chart in list_evaluation_charts(vocabulary, images, curve)],
        galleries=[gallery for gallery in galleries if gallery.examples],
        vocabulary=vocabulary,
    )


def list_evaluation_charts(
    vocabulary: Vocabulary, images: Sequence[ScoredImage], curve: Sequence[Scores]
) -> list[Chart]:
    """Charts of IoU over thresholds and quality, and of bad masks found by looking, as far as there is data."""
    charts = []
    if curve:
        places = [index / NUM_THRESHOLDS for index in range(len(curve))]
        # A class may have this name.
        mean = next(name for name in ("mean", "mean of all", "mean IoU") if name not in vocabulary.classes)
        colours = {mean: MEAN_COLOUR, BACKGROUND: BACKGROUND_COLOUR}
        colours |= dict(zip(vocabulary.classes, list_colours(vocabulary), strict=True))
        curves = {mean: (places, [100 * scores.mean_iou for scores in curve])}
        for index, name in enumerate([BACKGROUND, *vocabulary.classes]):
            values = [100 * float(scores.iou[index]) for scores in curve]
            if not all(np.isnan(values)):
                curves[name] = (places, values)
        charts.append(
            Chart(title="IoU by threshold", unit="IoU in %", curves=curves, colours=colours, place="threshold")
        )
    if bins := bin_by_quality(images):
        points = ([one.mean_quality for one in bins], [100 * one.mean_iou for one in bins])
        charts.append(
            Chart(
                title="True IoU by quality, tenths of the images", unit="IoU in %", curves={"": points}, place="quality"
            )
        )
    if effort := measure_effort(images):
        known = [image for image in images if image.columns["quality"] is not None]
        qualities = np.array([image.columns["quality"] for image in known], float)
        looked, found = trace_found(qualities, np.array([image.iou < BAD_IOU for image in known]))
        best = effort.num_bad / effort.num_images
        curves = {
            "worst first by quality": ((100 * looked).tolist(), (100 * found).tolist()),
            "random": ([0.0, 100.0], [0.0, 100.0]),
            "best possible": ([0.0, 100 * best, 100.0], [0.0, 100.0, 100.0]),
        }
        title = f"Bad masks (IoU below {BAD_IOU}) found by looking"
        charts.append(Chart(title=title, unit="bad masks found in %", curves=curves, place="images looked at in %"))
    return charts


def find_best(curve: Sequence[Scores]) -> int | None:
    """Index of the best mean IoU of a curve; None if there is no curve."""
    return int(np.argmax([scores.mean_iou for scores in curve])) if curve else None


def show_percent(share: float) -> str:
    """Share as a percentage with two decimals; NaN as a dash.

    >>> show_percent(0.1234), show_percent(float("nan"))
    ('12.34', '-')
    """
    return "-" if np.isnan(share) else f"{100 * share:.2f}"


def average(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
