"""One local Ray for all end-to-end tests of a session."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

SESSION_MARK = "TAGMASK_TEST_SESSION"


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of the session's own: four CPU slots, no dashboard, short socket paths, nothing left behind."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Else a compiled network starts processes of its own, each of which imports PyTorch.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp" if Path("/tmp").is_dir() else None)
    # By which tests that kill find this session's processes, and no others.
    os.environ[SESSION_MARK] = folder
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
