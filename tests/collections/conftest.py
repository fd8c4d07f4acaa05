"""Fixtures of collections that grow."""

from pathlib import Path
from typing import Any

import pytest

from tests.collections.growing import Driver, StartDriver, add_photos


@pytest.fixture
def start_driver(small_inputs: Path, tmp_path: Path) -> StartDriver:
    """Makes drivers of one run; by default of `photos` and `out` in the test's folder."""

    def start(*patterns: Path | str, out_uri: str = f"{tmp_path}/out", **options: Any) -> Driver:
        return Driver(patterns or (tmp_path / "photos",), out_uri, str(small_inputs / "model"), **options)

    return start


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos, a sub-folder a class."""
    add_photos(tmp_path / "photos", "cat/b.jpg", "cat/d.jpg", "dog/a.jpg")
    return tmp_path / "photos"
