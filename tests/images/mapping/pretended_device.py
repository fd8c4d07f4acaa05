"""A pretended GPU: tensors that are not on the CPU, hold their values on the CPU, and count what a GPU would do."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pipeline.images.mapping.transfers import Transfers

PRETENDED = torch.device("meta")
"""PyTorch asks the driver about devices of a GPU, and nobody about this one."""
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"}
"""Operations whose result the host needs, or whose shape depends on values."""
FREE = {"empty", "empty_like", "new_empty", "empty_strided"}
"""Operations that launch nothing: memory without values. Views do not, either."""


class OnDevice(torch.Tensor):
    """A tensor of the pretended GPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: Any, held: torch.Tensor) -> "OnDevice":
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=PRETENDED,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return DeviceCounts.active[-1].run(function, args, kwargs or {})


class DeviceCounts(TorchDispatchMode):
    """Counts launches, waits and copies of a pretended GPU while it is active."""

    active: ClassVar[list["DeviceCounts"]] = []

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        """By phase."""
        self.waits: Counter[str] = Counter()
        """By operation."""
        self.num_uploads = 0
        self.num_downloaded_bytes = 0
        self._phase = "other"

    def __enter__(self) -> "DeviceCounts":
        self.active.append(self)
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self.active.pop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count launches under a name of their own."""
        before, self._phase = self._phase, name
        yield
        self._phase = before

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(function, args, kwargs or {})

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on the values of its tensors and count it, if one of them is of the GPU."""
        name = function.overloadpacket.__name__
        is_there = False

        def unwrap(value: Any) -> Any:
            nonlocal is_there
            is_there = is_there or isinstance(value, OnDevice)
            return value.held if isinstance(value, OnDevice) else value

        plain_args, plain = tree_map(unwrap, args), dict(tree_map(unwrap, kwargs))
        wanted = plain.get("device")
        if wanted is not None:
            plain["device"] = torch.device("cpu")
        leaves = wanted is not None and torch.device(wanted).type == "cpu" and is_there
        goes_there = wanted is not None and torch.device(wanted).type == PRETENDED.type
        result = function(*plain_args, **plain)
        if not (is_there or goes_there):
            return result
        if leaves or name in WAITING or (name == "index" and _has_mask(plain_args[1])):
            self.waits[name] += 1
        if goes_there and not is_there and name == "_to_copy":
            self.waits["blocking upload"] += 1
        if name not in FREE and not _is_view(name, plain_args, result):
            self.launches[self._phase] += 1
        if leaves or name in WAITING:
            return result
        own = {id(value.held): value for value in args if isinstance(value, OnDevice)}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            # An operation in place returns the tensor that it changed.
            return own[id(value)] if id(value) in own else OnDevice(value)

        return tree_map(wrap, result)


def _is_view(name: str, args: Any, result: Any) -> bool:
    """Whether an operation only returns its input, or views of it."""
    if name.endswith("_"):
        return False
    inputs = {one.untyped_storage().data_ptr() for one in tree_flatten(args)[0] if isinstance(one, torch.Tensor)}
    outputs = [one for one in tree_flatten(result)[0] if isinstance(one, torch.Tensor)]
    return bool(outputs) and all(one.untyped_storage().data_ptr() in inputs for one in outputs)


def _has_mask(indices: Any) -> bool:
    return any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in indices)


class CountedTransfers(Transfers):
    """Copies to the pretended GPU and back."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def upload(self, values: np.ndarray) -> torch.Tensor:
        for counts in DeviceCounts.active:
            counts.num_uploads += 1
        return OnDevice(torch.from_numpy(values))

    def download(self, values: Sequence[torch.Tensor]) -> Callable[[], list[np.ndarray]]:
        counts = DeviceCounts.active[-1]
        held = [one.held for one in values if isinstance(one, OnDevice)]
        assert len(held) == len(values)
        counts.num_downloaded_bytes += sum(one.nbytes for one in held)

        def wait() -> list[np.ndarray]:
            counts.waits["download"] += 1
            return [one.numpy() for one in held]

        return wait


def move_to_device(model: torch.nn.Module) -> None:
    """Put the weights of a model on the pretended GPU."""
    for module in model.modules():
        for name, weights in list(module.named_parameters(recurse=False)):
            # A parameter cannot be such a tensor; a plain attribute can.
            delattr(module, name)
            setattr(module, name, OnDevice(weights.data))
