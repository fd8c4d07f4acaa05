"""Storage backends for the tests: a local disk, memory, and S3 over HTTP; how tests share a machine."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import settings
from moto.server import ThreadedMotoServer

pytest_plugins = ["tests.small_run", "tests.export.runs"]
collect_ignore = ["readers"]
"""Programs of another environment, whose packages this one lacks."""

# How long an example takes says nothing on a shared machine.
settings.register_profile("tagmask", deadline=None)
settings.load_profile("tagmask")

# Read by PyTorch when it is imported, here and in every process that a test starts. The models of the tests are too
# small for threads, and the threads of several processes would fight for the cores.
os.environ["OMP_NUM_THREADS"] = "1"


RAY_TIMEOUT_S = 900
"""Limit of a test that uses Ray: it starts processes that import PyTorch, beside those of other tests."""


def pytest_xdist_auto_num_workers() -> int:
    """The workers of `pytest -n auto`: one per core. With more, tests of Ray miss the limits of its own waits."""
    return len(os.sched_getaffinity(0))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes by its argument and place, not by the bytes.

    Archives hold the time: every worker of xdist would collect another name, and it wants the same ones.
    """
    return argname if isinstance(val, bytes | bytearray) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move tests that use Ray to the front, and give them time.

    They take longest, and the short ones fill the gaps at the end.
    """
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    for item in items:
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(RAY_TIMEOUT_S))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A pretended S3 that answers over HTTP on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_folder(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of an empty folder in a bucket of the pretended S3."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(bucket)
    yield f"s3://{bucket}/run"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(params=["local", "memory", "s3"])
def folder_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty folder, once on every backend."""
    if request.param == "local":
        return str(tmp_path / "run")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/run"
    return str(request.getfixturevalue("s3_folder"))
