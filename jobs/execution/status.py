"""Say how far a run is."""

import json
import shlex
import time
from dataclasses import asdict

from jobs.arguments.status import StatusJob
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, format_duration, print_lines
from pipeline.progress.progress_file import ProgressRecord, RunState
from pipeline.progress.status import Condition, RunStatus, read_status

EXIT_CODES = {
    Condition.RUNNING: EXIT_OK,
    Condition.FINISHED: EXIT_OK,
    Condition.STOPPED: EXIT_STOPPED,
    Condition.FAILED: EXIT_FAILED,
    Condition.DIED: EXIT_FAILED,
}
GO_ON = "run the same command again to go on; what is committed stays"


def status(job: StatusJob) -> int:
    """Print the status and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    while True:
        found = read_status(job.out)
        if job.json:
            print(json.dumps(asdict(found) | {"next": describe_next(found)}), flush=True)
        else:
            print_lines(*describe_status(found))
        if job.watch is None or found.condition != Condition.RUNNING:
            return EXIT_CODES[found.condition]
        time.sleep(job.watch)


def describe_status(status: RunStatus) -> list[str]:
    """Describe a status in lines."""
    num_shards = "an unknown number of" if status.num_shards is None else str(status.num_shards)
    verb = "exported" if status.kind == "export" else "published"
    lines = [f"{status.out_uri}: {status.condition}", f"{status.num_published} of {num_shards} shards are {verb}"]
    if status.condition != Condition.FINISHED and status.host is not None and status.silent_s is not None:
        who = f"process {status.pid} on {status.host}"
        lines.append(f"driver: {who}, last heard of {format_duration(status.silent_s)} ago")
    if status.progress is not None:
        lines += _describe_progress(status.progress, is_running=status.condition == Condition.RUNNING)
    if advice := describe_next(status):
        lines.append(f"next: {advice}")
    return lines


def describe_next(status: RunStatus) -> str | None:
    """What to run next; None if there is nothing to do but to wait."""
    match status.condition:
        case Condition.RUNNING:
            return None
        case Condition.FINISHED if status.kind == "export":
            return None
        case Condition.FINISHED:
            return f"tagmask review --labels {shlex.quote(status.out_uri)}"
        case Condition.DIED:
            return f"see why the driver is gone, then {GO_ON}"
        case Condition.FAILED:
            return f"see to the last warning, then {GO_ON}"
        case Condition.STOPPED:
            return GO_ON


def _describe_progress(progress: ProgressRecord, *, is_running: bool) -> list[str]:
    did = "does" if is_running else "did"
    facts = [f"{progress.num_images} images"]
    if progress.images_per_s is not None:
        facts.append(f"{progress.images_per_s:.1f} images/s")
    if is_running and progress.seconds_left is not None:
        facts.append(f"{format_duration(progress.seconds_left)} left")
    lines = [f"tagmask {progress.command} since {progress.started} {did} {', '.join(facts)}"]
    if not is_running and progress.state != RunState.RUNNING:
        lines[0] += f" until {progress.updated} ({progress.state})"
    for word, reasons in (("rejected", progress.rejected_by_reason), ("left out", progress.left_out_by_reason)):
        lines += [f"  {word}, {reason}: {num}" for reason, num in sorted(reasons.items())]
    if progress.num_failed:
        lines.append(f"  failed shards: {progress.num_failed}")
    if progress.last_warning:
        lines.append(f"last warning: {progress.last_warning}")
    return lines
