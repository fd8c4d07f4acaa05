"""Jobs whose output nobody reads, through real pipes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.command_line.console import EXIT_PIPE

ROOT = Path(__file__).parents[2]
JOBS = [path.stem for path in sorted((ROOT / "jobs").glob("*.py")) if '__name__ == "__main__"' in path.read_text()]
PROGRAMS = {
    "a job that prints": "print('x' * 10**6, flush=True)",
    "a job that leaves its output to the end": "print('x')",
    "a job that takes errors for a store's": """
    try:
        print('x' * 10**6, flush=True)
    except Exception:
        return 0""",
    "a job that prints in a thread": """
    import threading
    thread = threading.Thread(target=print, args=('x' * 10**6,), kwargs={'flush': True})
    thread.start()
    thread.join()""",
    "a job that warns": "print('x' * 10**6, file=sys.stderr)",
}


def start(*command: Any, stderr: Any = subprocess.PIPE) -> Any:
    """Start a program whose output goes into a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=writer if stderr is None else stderr,
            text=True,
        )
    finally:
        os.close(writer)


def test_help_that_nobody_reads_ends_quietly_in_every_job() -> None:
    assert {"label", "train", "verify", "remask", "demo"} <= set(JOBS)
    running = {name: start("-m", f"jobs.{name}", "--help") for name in JOBS}
    for name, process in running.items():
        _, complaints = process.communicate(timeout=200)
        assert (name, process.returncode, complaints) == (name, EXIT_PIPE, "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_job_whose_reader_is_gone_ends_quietly(name: Any) -> None:
    job = f"def job():\n    {PROGRAMS[name].strip()}\n    return 0\n"
    program = f"import sys\nfrom jobs.command_line.console import run_job\n{job}"
    is_warning = "stderr" in PROGRAMS[name]
    process = start("-c", program + "sys.exit(run_job(job))", stderr=None if is_warning else subprocess.PIPE)
    _, complaints = process.communicate(timeout=200)
    assert (process.returncode, complaints) == (EXIT_PIPE, None if is_warning else "")


@pytest.mark.parametrize("variables", [{}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONIOENCODING": "latin-1:replace"}])
def test_output_that_is_read_arrives_whole_and_in_its_encoding(variables: dict[str, str]) -> None:
    program = (
        "import sys\nfrom jobs.command_line.console import run_job\n"
        "def job():\n    print('ü羊' * 50000)\n    print('w', file=sys.stderr)\n    return 3\n"
        "sys.exit(run_job(job))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        timeout=200,
        check=False,
    )
    expected = "ü?".encode("latin-1") if "PYTHONIOENCODING" in variables else "ü羊".encode()
    assert (done.returncode, done.stdout, done.stderr) == (3, expected * 50000 + b"\n", b"w\n")


def test_job_without_standard_output_runs() -> None:
    program = "import sys; from jobs.command_line.console import run_job; sys.exit(run_job(lambda: print(1) or 3))"
    command = f"exec '{sys.executable}' -c '{program}' >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 3
