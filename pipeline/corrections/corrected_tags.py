"""Corrections of tags: what decisions of reviewers change in the classes of rows, for `label --retry reviewed:...`."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipeline.commit.retry import PERMANENT, read_edits
from pipeline.published.decisions import WITH_CLASSES, Decision, Decisions, Verdict
from pipeline.published.rows import MaskRow, browse_published, open_rows
from pipeline.published.run import PublishedRun
from pipeline.run.records import TagEdit

STATUS = "reviewed"
COLUMNS = ("key", "index", "reason", "class_ids", "suggested_class_ids", "image_sha256", "mask")
NO_CLASS = "names no class"
OTHER_ROW = "its row was labelled again since, or has another image"
NO_SUCH_CLASS = "names a class that the vocabulary lacks"
NO_CHANGE = "the row has these classes already"
NOT_PUBLISHED = "its shard is not published"
INSTEAD = {
    Verdict.ACCEPT: "an accepted mask needs no other",
    Verdict.REFUSE: "labelling again gives the same mask; tagmask export --without-refused leaves these rows out",
    Verdict.REDRAW: "the tags are right; draw the mask in another tool, and bring it back by tagmask import-masks",
}


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Corrections of some decisions."""

    edits: Mapping[str, Mapping[int, TagEdit]]
    """By name of the shard and index of the row."""
    left_out: Mapping[str, int]
    """Number of decisions that change nothing, by the reason."""


def parse_verdicts(text: str) -> tuple[Verdict, ...]:
    """Parse `reviewed:wrong_tag,missing_tag`; each kind may have the prefix again.

    >>> [str(verdict) for verdict in parse_verdicts("reviewed:wrong_tag,reviewed:missing_tag")]
    ['missing_tag', 'wrong_tag']

    Raises:
        ValueError: A kind of decision is unknown, or labelling again cannot answer it.
    """
    verdicts = set()
    for listed in text.removeprefix(f"{STATUS}:").split(",") if text != STATUS else sorted(WITH_CLASSES):
        name = listed.strip().removeprefix(f"{STATUS}:")
        if name.partition(":")[0] == "rejected":
            raise ValueError(
                f"--retry takes rejected rows or reviewed ones, got both in '{text}'; run one, then the other"
            )
        if name not in WITH_CLASSES:
            why = f": {INSTEAD[Verdict(name)]}" if name in INSTEAD else ""
            raise ValueError(f"--retry reviewed takes {' and '.join(sorted(WITH_CLASSES))}, got '{name}'{why}")
        verdicts.add(Verdict(name))
    return tuple(sorted(verdicts))


def find_corrections(run: PublishedRun, decisions: Decisions, verdicts: Collection[Verdict]) -> Corrections:
    """Find what decisions change in the rows of a run. Decisions that change nothing are counted.

    Raises:
        ValueError: The run draws classes that the model suggests, so a class that is taken away would come back.
        ManifestError: A manifest is damaged or of another run.
    """
    if Verdict.WRONG_TAG in verdicts and run.config.maps.draw_suggestions:
        raise ValueError(
            f"'{run.uri}' draws the classes that its model suggests (--maps.draw-suggestions), so a class that is "
            "taken away may come back; correct the tags at the source, and label under a new --out"
        )
    left_out: Counter[str] = Counter()
    by_shard: dict[str, dict[int, Decision]] = defaultdict(dict)
    names = {shard.name for shard in run.shards}
    for decision in decisions.values():
        if decision.decision not in verdicts:
            continue
        if not decision.classes:
            left_out[NO_CLASS] += 1
        elif set(decision.classes) - set(run.vocabulary.classes):
            left_out[NO_SUCH_CLASS] += 1
        elif decision.shard not in names:
            left_out[NOT_PUBLISHED] += 1
        else:
            by_shard[decision.shard][decision.index] = decision
    edits = {name: _find_edits(run, name, some, left_out) for name, some in sorted(by_shard.items())}
    return Corrections(edits={name: some for name, some in edits.items() if some}, left_out=left_out)


def _find_edits(
    run: PublishedRun, shard_name: str, decisions: Mapping[int, Decision], left_out: Counter[str]
) -> dict[int, TagEdit]:
    edits: dict[int, TagEdit] = {}
    num_seen = 0
    with browse_published(run, shard_name) as manifest:
        before = read_edits(manifest)
        groups = _find_groups([num_rows for num_rows, _ in manifest.footer["chunks"]], decisions)
    with open_rows(run, run.locate(run.get_shard(shard_name))) as rows:
        for row in rows.iterate_rows(None, COLUMNS, groups):
            if (decision := decisions.get(row.index)) is None:
                continue
            num_seen += 1
            edit = _to_edit(decision, run.class_names)
            if why := _refuse(row, decision, edit, before.get(row.index, TagEdit())):
                left_out[why] += 1
            else:
                edits[row.index] = edit
    left_out[OTHER_ROW] += len(decisions) - num_seen
    return edits


def _find_groups(num_rows: Sequence[int], indices: Collection[int]) -> list[int]:
    """The row groups that hold some rows."""
    ordered = sorted(indices)
    groups, start = [], 0
    for group, num in enumerate(num_rows):
        place = bisect_left(ordered, start)
        start += num
        if place < len(ordered) and ordered[place] < start:
            groups.append(group)
    return groups


def _to_edit(decision: Decision, class_names: Sequence[str]) -> TagEdit:
    ids = frozenset(class_names.index(name) for name in decision.classes)
    return TagEdit(removed=ids) if decision.decision == Verdict.WRONG_TAG else TagEdit(added=ids)


def _refuse(row: MaskRow, decision: Decision, edit: TagEdit, before: TagEdit) -> str:
    """Why a decision changes nothing; empty if it does."""
    if row.key != decision.key or not decision.applies_to(row):
        return OTHER_ROW
    if row.get("reason") in PERMANENT:
        return f"its row is rejected as {row.get('reason')}, which lies in the shard"
    class_ids = row.get("class_ids")
    tagged = None if class_ids is None else set(class_ids) - set(row.get("suggested_class_ids") or ())
    # A new mask may have the same bytes, and a rejected row has none: the decision then still applies.
    is_known = edit.follow(before) == before
    return NO_CHANGE if is_known or (tagged is not None and edit.apply(tagged) == tuple(sorted(tagged))) else ""
