"""Fixture of the tests of audits."""

from pathlib import Path

import pytest

from tests.audit.published import publish


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Output folder of a published run of three shards."""
    return publish(tmp_path)
