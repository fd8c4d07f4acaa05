"""What should not change what is learned: cutting a batch into passes, bf16, a compiled network."""

import numpy as np
import pytest

from jobs.train import main
from pipeline.training.driver.log import read_records
from tests.e2e.test_train_job import inputs, make_command  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def train_plainly(inputs, out, *flags):  # noqa: F811
    """Train for an epoch with random order only; return loss and gradient norm of each step."""
    calm = ("--drop-path", "0", "--random-erasing", "0", "--epochs", "1", "--warmup-epochs", "0", "--workers", "1")
    assert main(make_command(inputs, out, *calm, *flags)) == 0
    steps = [record for record in read_records(str(out)) if record["kind"] == "step"]
    return np.array([(record["losses"]["total"], record["grad_norm"]) for record in steps])


@pytest.fixture(scope="module")
def plain(inputs, tmp_path_factory, local_ray):  # noqa: F811
    return train_plainly(inputs, tmp_path_factory.mktemp("plain") / "out", "--accumulation", "1")


def test_batch_in_several_passes_has_the_steps_of_a_whole_batch(inputs, plain, tmp_path):  # noqa: F811
    in_passes = train_plainly(inputs, tmp_path / "out", "--accumulation", "3")
    np.testing.assert_allclose(in_passes, plain, rtol=1e-4)


def test_compiled_network_in_bf16_learns_as_the_plain_one(inputs, plain, tmp_path):  # noqa: F811
    flags = ("--accumulation", "1", "--precision", "bf16", "--compile")
    losses = train_plainly(inputs, tmp_path / "out", *flags)[:, 0]
    np.testing.assert_allclose(losses, plain[:, 0], rtol=0.02)
    assert not np.array_equal(losses, plain[:, 0])
