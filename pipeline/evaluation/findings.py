"""What looks wrong with the true masks of an evaluation, in words: the scores alone would not show it."""

from collections.abc import Sequence

from pipeline.evaluation.scores import EvaluationCounts

SUSPECT_FRACTION = 0.5
"""Share of the tagged images from which on a finding concerns the collection, not single masks."""


def list_findings(counts: EvaluationCounts, class_names: Sequence[str]) -> list[str]:
    """List findings about the true masks, worst first; empty if nothing is suspect.

    Args:
        counts: Of all images.
        class_names: Of the run; the first has id 1.
    """
    findings = []
    number, most = counts.num_tagged_without_class, SUSPECT_FRACTION * counts.num_tagged
    ids = f"masks need the class ids of the vocabulary, such as 1 for '{class_names[0]}'" if class_names else ""
    if number and number >= most:
        is_all = number == counts.num_tagged
        binary = ""
        if counts.num_tagged_binary:
            binary = (
                f"; {counts.num_tagged_binary} hold only 0 and 255, as binary masks do, but 255 means that a pixel is "
                "ignored"
            )
        findings.append(
            f"no class was found in {'any of the' if is_all else f'{number} of'} {counts.num_tagged} true masks of "
            f"images that carry tags{binary}; {ids}{', and the scores say nothing of the classes' if is_all else ''}"
        )
    number = counts.num_tagged_other_class
    if number and number >= most:
        findings.append(
            f"{number} of {counts.num_tagged} true masks hold classes, but none that their image is tagged with; "
            f"{ids}; "
            "are these ids of another list, or do they count from 0?"
        )
    return findings
