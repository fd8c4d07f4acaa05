"""What does a GPU do, and how busy is it? One table and one JSON of a card, in less than 8 minutes and without Ray.

    python -m benchmarks.gpu --json gpu.json            # on a card
    python -m benchmarks.gpu --device cpu --small       # a trial of every part on a CPU, in minutes

Pictures are made up and weights are random, so a checkout is all it needs, on Linux. Beside Python 3.11 or later,
torch, timm and what these two install, it needs seven packages, and says which are missing before it measures:

    python -m pip install aiohttp jaxtyping pyarrow pydantic scipy simplejpeg zlib-ng

The most important cases come first. Each runs on its own: one that fails says so, and the others run; one for which no
time is left is named as skipped. The JSON is written after every row.
"""

import argparse
import importlib
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu_parts.report import Report, format_tables

NEEDED = {
    "torch": "torch",
    "timm": "timm",
    "numpy": "numpy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "aiohttp": "aiohttp",
    "jaxtyping": "jaxtyping",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "scipy": "scipy",
    "simplejpeg": "simplejpeg",
    "zlib_ng": "zlib-ng",
}
"""Package to install, by the module that is imported. The first five come with torch and timm."""
MAX_S = 460.0


def _parse_arguments() -> argparse.Namespace:
    # Not tyro: machines with a GPU and without Ray often lack it.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device as PyTorch names it")
    parser.add_argument("--small", action="store_true", help="few small measurements, to try the benchmark")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--max-s", type=float, default=MAX_S, help="seconds in which all cases have to end")
    parser.add_argument("--commit", default="", help="commit of the checkout, for the record")
    return parser.parse_args()


def find_missing(modules: Iterable[str]) -> dict[str, str]:
    """Import modules; return what is wrong with those that cannot be imported."""
    missing = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing[name] = str(error)
    return missing


def main() -> int:
    """Measure a card; print a line for each case, then tables of them and all of them as JSON."""
    arguments = _parse_arguments()
    report = Report(max_s=arguments.max_s, path=arguments.json)
    if missing := find_missing(NEEDED):
        for name, error in missing.items():
            print(f"error: cannot import {name}: {error}", file=sys.stderr)
        print(f"run: python -m pip install {' '.join(NEEDED[name] for name in missing)}", file=sys.stderr)
        return 2
    import torch

    from benchmarks.gpu_parts import machine
    from benchmarks.gpu_parts.plan import list_cases

    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU; check the driver, or try with --device cpu --small", file=sys.stderr)
        return 2
    bench = machine.make_bench(device, is_small=arguments.small)
    report.add(
        "machine",
        **machine.describe(device),
        python=platform.python_version(),
        commit=arguments.commit,
        date=datetime.now(UTC).date().isoformat(),
        bf16_tflops=bench.peak / 1e12,
    )
    for case in list_cases(arguments.small):
        report.run(case, bench)
        machine.clear(device)
    report.finish()
    print(*format_tables(report.rows), sep="\n")
    print(report.to_json())
    return int(report.num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
