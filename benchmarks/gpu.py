"""What does a GPU do, and how busy is it? One table and one JSON of a card, in less than 8 minutes and without Ray.

    python -m benchmarks.gpu --json gpu.json            # on a card
    python -m benchmarks.gpu --device cpu --small       # a trial of every part on a CPU, in a minute

Pictures are made up and weights are random, so a checkout is all it needs. Packages that are missing are listed first.
Each part runs on its own: one that fails says so, and the others run. Parts that no longer fit into the time say so.
"""

import argparse
import importlib.util
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

NEEDED = ("jaxtyping", "numpy", "PIL", "pyarrow", "pydantic", "safetensors", "scipy", "timm", "torch", "zlib_ng")
MAX_S = 460.0


@dataclass
class Report:
    """Figures of a card, as they come."""

    max_s: float
    """Seconds after which no further part begins."""
    started_s: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, **figures: Any) -> None:
        """Print and keep a row of figures."""
        self.rows.append({"part": part, **figures})
        said = "  ".join(f"{name} {_show(value)}" for name, value in figures.items())
        print(f"{time.monotonic() - self.started_s:6.1f} s  {part:24s}{said}", flush=True)

    def run(self, part: str, measure: Callable[[], None]) -> None:
        """Run a part if there is time, and keep what goes wrong as a row."""
        if time.monotonic() - self.started_s > self.max_s:
            self.add(part, skipped="no time left")
            return
        try:
            measure()
        except Exception as error:  # noqa: BLE001 (of any type: the other parts have to run)
            traceback.print_exc()
            self.add(part, failed=f"{type(error).__name__}: {error}"[:300])


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parse_arguments() -> argparse.Namespace:
    # Not tyro: machines with a GPU and without Ray often lack it.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device as PyTorch names it")
    parser.add_argument("--small", action="store_true", help="few small measurements, to try the benchmark")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--max-s", type=float, default=MAX_S, help="seconds after which no further part begins")
    parser.add_argument("--commit", default="", help="commit of the checkout, for the record")
    return parser.parse_args()


def main() -> int:
    """Measure a card; print a line for each figure, then all of them as JSON."""
    arguments = _parse_arguments()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"error: missing packages: {', '.join(missing)}; install them first", file=sys.stderr)
        return 2
    import torch

    from benchmarks.gpu_parts import labelling, machine, pixel_refinement, training

    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU; check the driver, or try with --device cpu --small", file=sys.stderr)
        return 2
    report = Report(arguments.max_s)
    figures = machine.describe(device)
    report.add("machine", **figures, commit=arguments.commit, date=datetime.now(UTC).date().isoformat())
    peak = machine.measure_peak(device, report, is_small=arguments.small)
    for part in (machine, pixel_refinement, labelling, training):
        for name, measure in part.PARTS.items():
            report.run(name, partial(measure, device, report, peak, arguments.small))
    document = json.dumps({"python": platform.python_version(), "rows": report.rows}, indent=1)
    if arguments.json is not None:
        arguments.json.write_text(document)
    print(document)
    return int(any("failed" in row for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
