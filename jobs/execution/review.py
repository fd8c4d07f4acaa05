"""Serve the page of a review until it is stopped."""

import getpass
import secrets
import signal
import threading
import webbrowser
from datetime import UTC, datetime

from jobs.arguments.review import ReviewJob
from jobs.cluster.settings import use_endpoint
from jobs.command_line.console import EXIT_OK, print_lines
from pipeline.errors import LabellingError
from pipeline.evaluation.truth import open_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.published.overrides import read_overrides
from pipeline.published.run import open_published
from pipeline.review.api import ReviewApi, Truth
from pipeline.review.decision_log import DecisionLog
from pipeline.review.index import RowIndex
from pipeline.review.server import ReviewServer

POLL_S = 0.5


def review(job: ReviewJob) -> int:
    """Serve the page and return the exit code."""
    use_endpoint(job.store.endpoint_url)
    runs = [open_published(uri) for uri in job.labels]
    if len(runs) > 1 and runs[0].class_names != runs[1].class_names:
        raise LabellingError(
            f"'{job.labels[0]}' and '{job.labels[1]}' have other classes or another order of them; compare runs of one "
            "vocabulary"
        )
    truth = Truth(open_truth(job.truth), TruthFrame(job.truth_frame)) if job.truth else None
    now = datetime.now(UTC)
    log = DecisionLog(
        runs[0].uri,
        str(runs[0].record["fingerprint"]),
        job.reviewer if job.reviewer is not None else _get_user(),
        f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        lambda: datetime.now(UTC),
    )
    index = RowIndex(runs[0])
    try:
        api = ReviewApi(runs, index, log, truth, read_overrides(runs[0].uri))
        server = ReviewServer(api, job.host, job.port, secrets.token_urlsafe(24))
    except OSError as error:
        raise LabellingError(f"cannot listen at {job.host}, port {job.port}: {error}; give another --port") from error
    _serve(job, server, index)
    log.close()
    counts = ", ".join(f"{num} {name}" for name, num in log.decisions.count().items() if num)
    print_lines(f"{log.num_made} decisions in this session; all in all {counts or 'none'}")
    return EXIT_OK


def _serve(job: ReviewJob, server: ReviewServer, index: RowIndex) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S}, daemon=True).start()
    print_lines(server.address, "Ctrl-C ends the review; decisions are stored when they are made")
    reading = threading.Thread(target=index.read_all)
    reading.start()
    if job.open:
        webbrowser.open(server.address)
    said = 0
    while not stopped.wait(POLL_S):
        for failure in index.failures[said:]:
            print_lines(f"warning: {failure}; its rows are not shown", to_stderr=True)
            said += 1
    index.stop()
    server.shutdown()
    server.server_close()
    reading.join()


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may have a user without a name.
        raise LabellingError("this machine has no name for its user; give --reviewer") from None
