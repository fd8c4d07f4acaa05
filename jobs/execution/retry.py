"""What `tagmask label --retry` labels again: rejected rows, or rows whose tags reviewers corrected."""

from collections.abc import Sequence

from jobs.cluster.driving import print_warning
from pipeline.commit.plan import Edits, RetryOrder
from pipeline.commit.retry import open_correction, open_retry, parse_reasons
from pipeline.corrections.corrected_tags import STATUS, find_corrections, parse_verdicts
from pipeline.published.decisions import Verdict, read_decisions
from pipeline.published.run import open_published
from pipeline.run.records import Status
from pipeline.run.run_file import Run


def check_retry(text: str) -> None:
    """Check the option before any work.

    Raises:
        ValueError: It names neither rejected nor reviewed rows, or rows that labelling again cannot change.
    """
    if text.partition(":")[0] == STATUS:
        parse_verdicts(text)
        return
    if text.partition(":")[0] != Status.REJECTED:
        raise ValueError(
            f"--retry takes 'rejected', 'rejected:reason', '{STATUS}:wrong_tag' or '{STATUS}:missing_tag', got '{text}'"
        )
    if f"{STATUS}:" in text:
        raise ValueError(f"--retry takes rejected or reviewed rows, got both in '{text}'; run one, then the other")
    parse_reasons(text)


def open_ordered(run: Run, text: str, *, writes: bool) -> tuple[Run, RetryOrder]:
    """Open a run for a retry.

    Args:
        run: As the command line describes it.
        text: The option.
        writes: False for a dry run.

    Raises:
        ValueError: The option is wrong, or does not fit the run.
        RunConflictError: The output folder holds another run.
        ManifestError: It holds no run, or what it holds is damaged.
    """
    if text.partition(":")[0] != STATUS:
        return open_retry(run, parse_reasons(text))
    verdicts = parse_verdicts(text)
    reasons = [f"{STATUS}:{verdict}" for verdict in verdicts]
    run, order, is_resumed = open_correction(run, reasons, lambda: _find_edits(run.out_uri, verdicts), writes=writes)
    if is_resumed:
        num_rows = sum(map(len, order.edits.values()))
        print(
            f"an unfinished retry of {num_rows} rows ({', '.join(order.reasons)}) goes on; run the same command again "
            "for decisions made since it began",
            flush=True,
        )
    return run, order


def _find_edits(out_uri: str, verdicts: Sequence[Verdict]) -> Edits:
    found = find_corrections(open_published(out_uri), read_decisions(out_uri), verdicts)
    for why, num in sorted(found.left_out.items()):
        if num:
            print_warning(f"{num} decisions ({', '.join(verdicts)}) are left out: {why}")
    return found.edits
