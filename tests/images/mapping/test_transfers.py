"""Copies to a device and back."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.images.mapping.transfers import Transfers

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; run `pytest` on this file beside one"),
    ),
]


@pytest.mark.parametrize("name", DEVICES)
def test_arrays_arrive_whole_and_results_return_in_order(name: str) -> None:
    device = torch.device(name)
    transfers = Transfers(device)
    arrays = [np.arange(24, dtype=kind).reshape(2, 3, 4) for kind in (np.uint8, np.int64, np.float32)]
    uploaded = [transfers.upload(one) for one in arrays]
    assert {one.device.type for one in uploaded} == {device.type}
    wait = transfers.download([one * 2 for one in uploaded])
    for found, given in zip(wait(), arrays, strict=True):
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found, given * 2)


@pytest.mark.parametrize("name", DEVICES)
def test_host_may_change_an_array_once_what_was_queued_with_it_is_read(name: str) -> None:
    """The next batch is uploaded before the last one is waited for."""
    transfers = Transfers(torch.device(name))
    waits: list[Any] = []
    for number in range(3):
        waits.append(transfers.download([transfers.upload(np.full((64, 1024), number, np.float32)).sum()]))
    assert [float(wait()[0]) for wait in waits] == [0.0, 65536.0, 131072.0]
