"""The pretended GPU counts what a GPU would do, in inference mode, in which labelling runs, and outside of it."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.images.mapping.pretended_device import PRETENDED, DeviceCounts, OnDevice

MODES = [pytest.param(nullcontext, id="plain"), pytest.param(torch.inference_mode, id="inference")]
WAITS: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x[0, 0].item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).all()),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.cpu().numpy(),
    "to the host": lambda x: x.to("cpu"),
    "to the host with a cast": lambda x: x.to(device="cpu", dtype=torch.float64),
    "copied into a tensor of the host": lambda x: torch.zeros(3, 4).copy_(x),
    "from the host": lambda x: torch.rand(3, 4).to(x.device),
    "copied from a tensor of the host": lambda x: x.copy_(torch.rand(3, 4)),
    "assigned from a tensor of the host": lambda x: x.__setitem__(0, torch.rand(4)),
    "equal": lambda x: torch.equal(x, x * 1),
    "allclose": lambda x: torch.allclose(x, x * 1),
    "unique": lambda x: x.unique(),
    "nonzero": lambda x: x.nonzero(),
    "argwhere": lambda x: torch.argwhere(x),
    "masked_select": lambda x: x.masked_select(x > 0.5),
    "mask as index": lambda x: x[x > 0.5],
    "list as index": lambda x: x[[0, 2]],
    "tensor of the host as index": lambda x: x[torch.tensor([0, 2])],
    "repeats of a tensor": lambda x: x[0].repeat_interleave((x[0] > 0).long()),
}
NO_WAITS: dict[str, tuple[Callable[[torch.Tensor], Any], int]] = {
    "view": (lambda x: x.reshape(4, 3)[1:, None].expand(-1, 5, -1), 0),
    "memory": (lambda x: torch.empty_like(x), 0),
    "sum": (lambda x: x + 1, 1),
    "in place": (lambda x: x.mul_(2), 1),
    "into a given tensor": (lambda x: torch.add(x, x, out=torch.empty_like(x)), 1),
    "number of the host": (lambda x: x * torch.tensor(2.0), 1),
    "cast": (lambda x: x.bfloat16(), 1),
    "cast to the same type": (lambda x: x.float(), 0),
    "copy of a transposed tensor": (lambda x: x.t().contiguous(), 1),
    "filled memory": (lambda x: x.new_zeros(7), 1),
    "filled memory by device": (lambda x: torch.zeros(7, device=x.device), 1),
    "padding: memory filled, then copied": (lambda x: functional.pad(x, (1, 1)), 2),
    "finite: equal, absolute, unequal, product": (lambda x: x.isfinite(), 4),
    "copy filled by a mask": (lambda x: x.masked_fill(x > 0.5, 0), 3),
    "softmax": (lambda x: x.softmax(-1), 1),
    "product": (lambda x: x[None] @ x.t()[None], 1),
    "resized": (lambda x: functional.interpolate(x[None, None], size=(6, 8), mode="bilinear"), 1),
    "joined": (lambda x: torch.stack([x, x, x]), 1),
    "joined of two types, which are copied": (lambda x: torch.cat([x, x.double()]), 3),
    "joined of five axes, which are copied": (lambda x: torch.cat([x[None, None, None]] * 4), 4),
    "index of the device": (lambda x: x[(x[0] * 0).long()[:2]], 3),
    "value gathered by an index of the device": (lambda x: x.gather(0, (x * 0).long()), 3),
}


def count(run: Callable[[torch.Tensor], Any], mode: Any) -> DeviceCounts:
    with mode():
        x = OnDevice(torch.rand(3, 4) + 0.1)
        with DeviceCounts() as counts:
            run(x)
    return counts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WAITS)
def test_everything_that_needs_a_value_on_the_host_or_brings_one_waits_once(name: str, mode: Any) -> None:
    assert count(WAITS[name], mode).waits.total() == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NO_WAITS)
def test_launches_are_those_of_the_parts_of_an_operation_and_wait_for_nothing(name: str, mode: Any) -> None:
    run, expected = NO_WAITS[name]
    counts = count(run, mode)
    assert not counts.waits
    assert counts.launches.total() == expected, counts.launches


def test_attention_is_one_launch_in_inference_mode() -> None:
    """Outside of it PyTorch takes attention apart before the device sees it, as for a device without such a kernel."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        values = x[None, None]
        return functional.scaled_dot_product_attention(values, values, values)

    counts = count(attend, torch.inference_mode)
    assert counts.launches == {"scaled_dot_product_attention": 1}


@pytest.mark.parametrize("mode", MODES)
def test_results_are_those_of_the_cpu(mode: Any) -> None:
    with mode(), DeviceCounts():
        x = torch.rand(3, 4)
        found = (functional.pad(OnDevice(x), (1, 2)).softmax(-1) @ OnDevice(torch.ones(7, 2))).masked_fill(
            OnDevice(x[:, :2] > 0.5), -1
        )
        expected = (functional.pad(x, (1, 2)).softmax(-1) @ torch.ones(7, 2)).masked_fill(x[:, :2] > 0.5, -1)
        torch.testing.assert_close(found.cpu(), expected)
        assert found.device == PRETENDED


@pytest.mark.parametrize("mode", MODES)
def test_what_a_gpu_refuses_is_refused(mode: Any) -> None:
    with pytest.raises(RuntimeError, match="all tensors on one device"):
        count(lambda x: x + torch.rand(3, 4), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["numpy", "tolist"])
def test_reads_that_cannot_be_counted_are_refused(name: str, mode: Any) -> None:
    with pytest.raises((TypeError, RuntimeError), match=name):
        count(lambda x: getattr(x, name)(), mode)


@pytest.mark.parametrize("mode", MODES)
def test_work_of_the_host_is_not_counted(mode: Any) -> None:
    counts = count(lambda _: torch.rand(3, 4).isfinite().all().item(), mode)
    assert not counts.launches
    assert not counts.waits
