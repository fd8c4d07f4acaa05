"""Outcomes of the scenarios of `benchmarks.outages`, and their table."""

from dataclasses import dataclass, field

from benchmarks.labelling_cluster import Verdict


@dataclass(kw_only=True)
class Outcome:
    """Outcome of a scenario."""

    scenario: str
    exit_codes: list[int | None] = field(default_factory=list)
    """Exit code of each invocation of the command; None: it hung and was killed."""
    elapsed_s: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    last_words: list[str] = field(default_factory=list)
    """Last lines that each invocation printed."""
    error: str | None = None
    """Why the scenario did not finish; None if it did."""


def print_outcomes(outcomes: list[Outcome]) -> None:
    """Print a table with one line per scenario."""
    print(
        f"\n{'scenario':14s}{'exit codes':>14s}{'seconds':>9s}{'lost':>6s}{'doubled':>9s}{'byte-equal':>12s}"
        f"{'labelled':>12s}{'again':>7s}{'verify':>8s}"
    )
    for outcome in outcomes:
        verdict = outcome.verdict
        codes = ", ".join("hangs" if code is None else str(code) for code in outcome.exit_codes)
        print(
            f"{outcome.scenario:14s}{codes:>14s}{outcome.elapsed_s:>9.0f}{verdict.num_lost:>6d}"
            f"{verdict.num_doubled:>9d}{f'{verdict.num_byte_equal} of {verdict.num_shards}':>12s}"
            f"{f'{verdict.num_labelled} of {verdict.num_chunks}':>12s}{verdict.num_labelled_again:>7d}"
            f"{verdict.verify_exit_code!s:>8s}"
        )


def is_good(outcome: Outcome) -> bool:
    """Whether no row was lost, doubled or out of order, and the last invocation of the command succeeded."""
    verdict = outcome.verdict
    wrong = verdict.num_lost + verdict.num_doubled + verdict.num_out_of_order + bool(verdict.verify_exit_code)
    return (
        not outcome.error
        and outcome.exit_codes[-1:] == [0]
        and not wrong
        and verdict.num_byte_equal == verdict.num_shards
    )
