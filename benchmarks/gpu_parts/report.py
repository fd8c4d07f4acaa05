"""Cases of a benchmark, and the report of their figures. No packages, so that it works before they are looked for."""

import json
import math
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of figures."""

    part: str
    """What is measured."""
    settings: Row
    """What distinguishes the case from the others of its part."""
    measure: Callable[[Any], Row]
    """Gets a `machine.Bench`, returns the figures."""
    needs_s: float
    """Seconds that it takes on a GPU, estimated generously. It only begins if they are left."""


@dataclass(kw_only=True)
class Report:
    """Figures, as they come: printed, and kept in a file after each row, so that a killed run keeps what it has."""

    max_s: float
    """Seconds in which all cases have to end."""
    path: Path | None
    """JSON file; None: the figures are only printed."""
    clock: Callable[[], float] = time.monotonic
    rows: list[Row] = field(default_factory=list)
    is_complete: bool = False

    def __post_init__(self) -> None:
        self._started_s = self.clock()

    def add(self, part: str, **figures: Any) -> None:
        """Print and keep a row."""
        self.rows.append({"part": part} | {name: _make_finite(value) for name, value in figures.items()})
        said = "  ".join(f"{name} {_show(value)}" for name, value in figures.items())
        print(f"{self.clock() - self._started_s:6.1f} s  {part:18s}{said}", flush=True)
        self.write()

    def run(self, case: Case, bench: Any) -> None:
        """Run a case if its time is left, and keep what goes wrong as a row."""
        if self.clock() - self._started_s + case.needs_s > self.max_s:
            self.add(case.part, **case.settings, skipped="no time left")
            return
        try:
            figures = case.measure(bench)
        except Exception as error:  # noqa: BLE001 (of any type: the other cases have to run)
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {error}"[:300]}
        self.add(case.part, **case.settings, **figures)

    def finish(self) -> None:
        """Say that all cases had their turn."""
        self.is_complete = True
        self.write()

    @property
    def num_failed(self) -> int:
        """Number of cases that failed."""
        return sum("failed" in row for row in self.rows)

    def to_json(self) -> str:
        """All rows, and whether they are all."""
        document = {"python": platform.python_version(), "is_complete": self.is_complete, "rows": self.rows}
        return json.dumps(document, indent=1, allow_nan=False)

    def write(self) -> None:
        """Replace the file in one step."""
        if self.path is not None:
            unfinished = self.path.with_name(f"{self.path.name}.part")
            unfinished.write_text(self.to_json())
            unfinished.replace(self.path)


def format_tables(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of a Markdown table for each part, with a column for each figure that any of its rows has."""
    by_part = sorted(rows, key=lambda row: row["part"])
    for part, group in groupby(by_part, key=lambda row: row["part"]):
        own = list(group)
        names = list(dict.fromkeys(name for row in own for name in row if name != "part"))
        yield from (f"**{part}**", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}")
        yield from (f"| {' | '.join(_show(row.get(name, '')) for name in names)} |" for row in own)
        yield ""


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _make_finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
