"""Common part of the jobs that label and remask: drive a run, handle signals, print the outcome."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from jobs.command_line.console import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, format_duration, print_lines
from jobs.display.progress import ProgressDisplay
from jobs.display.streams import describe_in_log
from pipeline.commit.outcome import Outcome, read_outcomes
from pipeline.commit.plan import Plan
from pipeline.driver.ledger import Progress
from pipeline.driver.stop import Stop
from pipeline.driver.totals import RunSummary
from pipeline.driver.waves import Hooks
from pipeline.errors import WaveError
from pipeline.progress.progress_file import ProgressFile, RunState
from pipeline.run.advice import FOR_PASSED_OVER, FOR_REJECTED
from pipeline.run.records import MemberCounts, Reason
from pipeline.run.run_file import Run

REASONS_OF_NAMES = (Reason.DOTTED_NAME, Reason.DUPLICATE_KEY, Reason.SPLIT_SAMPLE)
"""Reasons that lie in the names and the order of members: another command or another archive gives other rows."""
MAX_FOOTERS = 1000
"""Shards of a finished run whose footers are read for its totals."""
Summary = TypeVar("Summary")
GO_ON = "what is committed stays, run the same command again"


def drive(
    run: Run,
    run_steps: Callable[[Hooks], RunSummary],
    *,
    command: str,
    grace_s: float,
    allows_nothing_labelled: bool,
    uses_ray: bool = True,
) -> int:
    """Complete a run, show its progress, handle signals, and return the exit code.

    Args:
        run: The run to label or remask.
        run_steps: Calls `label_run` or `remask_run` with the hooks.
        command: Name of the command, for progress.json.
        grace_s: Grace period after a signal, in seconds.
        allows_nothing_labelled: Whether a shard of which no image is labelled is a success.
        uses_ray: Whether the steps run on the Ray that this process is connected to.
    """
    display = ProgressDisplay()
    watching = watch_ray(lambda: _describe_loss(run, display)) if uses_ray else nullcontext()
    return watch_run(
        run_steps,
        lambda summary: conclude(run.out_uri, summary, allows_nothing_labelled=allows_nothing_labelled),
        file=ProgressFile(run.out_uri, command, warn_in_log),
        display=display,
        grace_s=grace_s,
        watching=watching,
    )


def watch_run(
    run_steps: Callable[[Hooks], Summary],
    conclude: Callable[[Summary], int],
    *,
    file: ProgressFile,
    display: ProgressDisplay,
    grace_s: float,
    watching: AbstractContextManager[None],
) -> int:
    """Drive a run, show and record its progress, handle signals, and return the exit code.

    Args:
        run_steps: Drives the run with the hooks.
        conclude: Prints what it did, and gives the exit code.
        file: Its progress.json, which also tells how it ended.
        display: Shows progress to whoever started the job.
        grace_s: Grace period after a signal, in seconds.
        watching: Entered for as long as the run is driven.
    """

    def on_progress(progress: Progress) -> None:
        display(progress)
        file.enter(progress)

    def on_warning(warning: str) -> None:
        warn_in_log(warning)
        file.warn(warning)

    code = EXIT_FAILED
    try:
        with display.open(), stop_on_signals(Stop(grace_s=grace_s)) as stop, watching:
            summary = run_steps(Hooks(on_progress=on_progress, on_warning=on_warning, stop=stop))
        code = conclude(summary)
    except WaveError as error:
        print_lines(f"error: {error}", to_stderr=True)
        file.warn(str(error))
    except KeyboardInterrupt:
        code = EXIT_STOPPED
        raise
    finally:
        file.end({EXIT_OK: RunState.DONE, EXIT_STOPPED: RunState.STOPPED}.get(code, RunState.FAILED))
    return code


@contextmanager
def watch_ray(describe_loss: Callable[[], str]) -> Iterator[None]:
    """Watch the head of the cluster that this process is connected to.

    Args:
        describe_loss: Says what remains when the cluster is lost.

    Raises:
        WaveError: Instead of an error of Ray.
    """
    # A run without Ray does not wait a second for its import.
    import ray.exceptions

    from jobs.cluster.head_watch import watch_head
    from pipeline.workers.ray_failures import describe_ray_failure

    try:
        with watch_head(describe_loss):
            yield
    except ray.exceptions.RayError as error:
        raise WaveError(f"{describe_ray_failure(error)}; {GO_ON}") from error


def _describe_loss(run: Run, display: ProgressDisplay) -> str:
    """Message about what remains when the cluster is lost."""
    last = display.last
    done = f"{last.num_sealed} of {last.num_shards} shards are published, " if last else ""
    return f"{done}the chunks of others are committed under '{run.out_uri}'; {GO_ON} once there is a cluster"


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into an orderly stop. Enter it after `ray.init`, which installs its own handlers."""

    def request_stop(signum: int, frame: object) -> None:
        if stop.is_requested:
            raise KeyboardInterrupt
        print(
            f"{signal.Signals(signum).name}: stopping within {stop.grace_s:g} s, what is committed stays; "
            "once more to stop at once",
            file=sys.stderr,
            flush=True,
        )
        stop.request()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_warning(warning: str) -> None:
    """Print a warning for the operator."""
    print_lines(f"warning: {warning}", to_stderr=True)


def warn_in_log(warning: str) -> None:
    """Print a warning while a run is driven: a log has the time of it."""
    print_lines(describe_in_log(f"warning: {warning}"), to_stderr=True)


def print_next(*commands: Sequence[str]) -> None:
    """Print what to run next, ready for a shell: the last line of a job that succeeded.

    Args:
        commands: Words of each command after `tagmask`.
    """
    print_lines("next: " + "; or ".join(f"tagmask {shlex.join(words)}" for words in commands))


def suggest_export(labels: str) -> tuple[str, ...]:
    """Words of a command that exports a run."""
    return "export", "--labels", labels, "--format", "coco", "--out", f"{labels.rstrip('/')}-coco"


def conclude(out_uri: str, summary: RunSummary, *, allows_nothing_labelled: bool) -> int:
    """Print what an invocation did and what remains; return the exit code.

    Args:
        out_uri: Output folder of the run.
        summary: Of the invocation.
        allows_nothing_labelled: Whether a shard of which no image is labelled is a success.
    """
    counts = summary.counts
    print(
        f"labelled {counts.num_labelled} and rejected {counts.num_rejected} of {counts.num_read} images "
        f"in {format_duration(summary.elapsed_s)}; published {summary.num_sealed} shards"
    )
    _print_rejected(summary)
    print_passed_over(summary.outcome.members)
    for _, damage in sorted(summary.truncated_shards.items()):
        print_warning(damage)
    for name, error in sorted(summary.failed_shards.items()):
        print_lines(f"error: {error if name in error else f'{name}: {error}'}", to_stderr=True)
    outcome_code = warn_of_nothing_labelled(summary.outcome, allows_nothing_labelled=allows_nothing_labelled)
    if summary.was_stopped:
        print(f"stopped with {summary.num_shards_left} shards to do; run the same command again to go on")
        return EXIT_STOPPED
    if summary.num_shards_left:
        print(
            f"{summary.num_shards_left} shards are not published; run the same command again when what held them up is "
            "over, but a shard that was mended is another input and needs another --out"
        )
        return EXIT_FAILED
    print(f"masks and statistics: {out_uri.rstrip('/')}/labels/*.parquet")
    return outcome_code


def read_published(run: Run, plan: Plan) -> Outcome | None:
    """Read what became of the published shards of a run; None if there is none, or too many to read all footers."""
    if not 0 < len(plan.sealed) <= MAX_FOOTERS:
        return None
    return read_outcomes(run.out_uri, [shard.name for shard in plan.sealed])


def conclude_published(outcome: Outcome | None, *, allows_nothing_labelled: bool) -> int:
    """Print the totals of a finished run; return the exit code.

    Args:
        outcome: Of its shards, by `read_published`.
        allows_nothing_labelled: Whether a shard of which no image is labelled is a success.
    """
    if outcome is None:
        print(f"these are more than {MAX_FOOTERS} shards, whose totals tagmask verify counts")
        return EXIT_OK
    counts = outcome.counts
    print(f"labelled {counts.num_labelled} and rejected {counts.num_rejected} of {counts.num_read} images")
    print_passed_over(outcome.members)
    return warn_of_nothing_labelled(outcome, allows_nothing_labelled=allows_nothing_labelled)


def _print_rejected(summary: RunSummary) -> None:
    """Print the rejected rows by reason, as published: repeated keys are found when a shard is published."""
    counts = summary.outcome.counts if summary.num_sealed else summary.counts
    if summary.num_sealed and counts.num_labelled != summary.counts.num_labelled:
        print(f"  in the published shards: {counts.num_labelled} labelled and {counts.num_rejected} rejected rows")
    for reason, number in sorted(counts.rejected_by_reason.items()):
        advice = f"; {FOR_REJECTED[Reason(reason)]}" if reason in REASONS_OF_NAMES else ""
        print(f"  rejected, {reason}: {number}{advice}")


def print_passed_over(members: MemberCounts | None) -> None:
    """Print how many members of the archives are in no row, by kind, with what to do."""
    for kind, (num, example) in sorted((members or MemberCounts()).passed_over.items()):
        advice = f"; {FOR_PASSED_OVER[kind]}" if kind in FOR_PASSED_OVER else ""
        print_lines(f"  passed over, {kind}: {num}, such as '{example}'{advice}")


def warn_of_nothing_labelled(outcome: Outcome, *, allows_nothing_labelled: bool) -> int:
    """Warn of shards of which no image is labelled; return the exit code."""
    if not outcome.num_unlabelled:
        return EXIT_OK
    names = ", ".join(f"'{name}'" for name in outcome.unlabelled)
    shards = f"shard {names}" if outcome.num_unlabelled == 1 else f"{outcome.num_unlabelled} shards such as {names}"
    reasons = sorted(outcome.reasons.items(), key=lambda item: -item[1])
    rejected = ", ".join(f"{reason} {num} times" for reason, num in reasons) or "without any sample"
    lines = [f"no image of {shards} is labelled: {rejected}"]
    if outcome.first_rows:
        lines.append(f"first samples: {', '.join(outcome.first_rows)}")
    lines += [f"for {reason}: {FOR_REJECTED[Reason(reason)]}" for reason, _ in reasons[:3]]
    if not allows_nothing_labelled:
        lines.append("if this is right, --allow-nothing-labelled makes it a success")
    for line in lines:
        print_warning(line)
    return EXIT_OK if allows_nothing_labelled else EXIT_FAILED
