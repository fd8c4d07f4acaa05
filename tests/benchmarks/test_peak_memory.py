import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRINT_PEAK = "from benchmarks.peak_memory import read_peak_bytes; {}; print(read_peak_bytes())"


def read_peak_of_child(act: str) -> int:
    command = [sys.executable, "-c", PRINT_PEAK.format(act)]
    return int(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def test_peak_is_that_of_the_process_and_not_of_its_parent() -> None:
    parents = bytearray(b"a") * (512 << 20)
    small, large = read_peak_of_child("pass"), read_peak_of_child("bytearray(b'a') * (256 << 20)")
    assert small < 128 << 20
    assert 256 << 20 < large < 384 << 20
    assert len(parents) == 512 << 20
