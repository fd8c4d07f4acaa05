"""What should not change what is learned: cutting a batch into passes, bf16, a compiled network.

That passes alone change nothing but the rounding is tested without Ray, in `tests/training/worker/test_step.py`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.train import main
from pipeline.training.driver.log import read_records
from tests.e2e.test_train_job import inputs, make_command  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def train_calmly(inputs: Path, out: Path, *flags: Any) -> np.ndarray:  # noqa: F811
    """Train for an epoch without anything random but the order; gives the loss of each step.

    All batches have one size, those of validation too: a network is compiled once more for another one.
    """
    calm = ("--drop-path", "0", "--random-erasing", "0", "--epochs", "1", "--warmup-epochs", "0", "--workers", "1")
    assert main(make_command(inputs, out, *calm, "--batch-size", "26", *flags)) == 0
    return np.array([record["losses"]["total"] for record in read_records(str(out)) if record["kind"] == "step"])


def test_compiled_network_in_bf16_learns_as_the_plain_one_does_in_passes(
    inputs: Any,  # noqa: F811
    local_ray: None,
    tmp_path: Path,
) -> None:
    plain = train_calmly(inputs, tmp_path / "plain", "--accumulation", "3")
    compiled = train_calmly(inputs, tmp_path / "compiled", "--accumulation", "1", "--precision", "bf16", "--compile")
    assert len(plain) == 3
    np.testing.assert_allclose(compiled, plain, rtol=0.02)
    assert not np.array_equal(compiled, plain)
