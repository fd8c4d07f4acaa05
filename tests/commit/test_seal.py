"""Publishing in a task: what goes wrong concerns one shard."""

from typing import Any

import pytest

from pipeline.commit.seal import CompleteShard, Refusal, publish_shard
from pipeline.errors import RejectionLimitError, StorageError
from pipeline.run.records import InputShard
from tests.fakes import REPORTING

SHARD = CompleteShard(shard=InputShard(uri="s3://bucket/a.tar", name="a", size_bytes=1, etag="1"), parts=())


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (RejectionLimitError("too many"), Refusal("too many", False)),
        (StorageError("the store is down"), Refusal("the store is down", True)),
        (MemoryError(), Refusal("shard 'a' cannot be sealed: MemoryError", False)),
        (KeyError("column"), Refusal("shard 'a' cannot be sealed: KeyError: 'column'", False)),
    ],
    ids=repr,
)
def test_error_of_any_type_is_a_refusal_of_its_shard(error: Exception, refusal: Refusal) -> None:
    def fail(complete: Any) -> Any:
        raise error

    assert publish_shard(fail, SHARD, REPORTING) == refusal
