"""Makes decisions, for tests and the processes that they start: imports little, for each process imports it anew."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pipeline.published.decisions import Decision, Verdict
from pipeline.review.decision_log import DecisionLog
from pipeline.run.run_file import read_run

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def read_fingerprint(run_uri: str) -> str:
    return str(read_run(run_uri)["fingerprint"])


def open_log(
    run_uri: str, reviewer: str = "ada", session: str = "s1", clock: Callable[[], datetime] = lambda: NOON
) -> DecisionLog:
    return DecisionLog(run_uri, read_fingerprint(run_uri), reviewer, session, clock)


def decide(log: DecisionLog, run_uri: str, place: int = 0, verdict: Verdict = Verdict.ACCEPT) -> Decision:
    values: dict[str, Any] = {"key": f"s0-{place}", "image_sha256": None, "mask_sha256": None}
    return log.add(
        Decision(
            shard="photos-0",
            index=place,
            decision=verdict,
            reviewer=log.reviewer,
            time=log.clock(),
            fingerprint=read_fingerprint(run_uri),
            **values,
        )
    )


def decide_for_ever(run_uri: str, reviewer: str, said: Any) -> None:
    log = open_log(run_uri, reviewer, f"of-{reviewer}")
    for place in range(100_000):
        decide(log, run_uri, place)
        said.put((reviewer, place))
