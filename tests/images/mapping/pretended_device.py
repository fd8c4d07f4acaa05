"""A pretended GPU: tensors that are not on the CPU, hold their values on the CPU, and count what a GPU would do."""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.images.mapping.transfers import Transfers

PRETENDED = torch.device("meta")
"""Where the tensors are. PyTorch asks the driver about devices of a GPU, and nobody about this one."""
NAMED = torch.device("maia")
"""What code is told instead: PyTorch casts under autocast there, and asks nobody about it, either."""
WHOLE = {"scaled_dot_product_attention", "clone", "copy_", "_to_copy", "_unsafe_view"}
"""Operations that PyTorch composes of others and a GPU runs as one kernel, or as one copy."""
FREE = {"empty", "empty_like", "new_empty", "empty_strided", "_fused_sdp_choice"}
"""Operations that launch nothing: memory without values, and a choice by shapes. Views do not, either."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that wait for a mask, or for an index that is on the host, and for no other index."""
get_chooser = attrgetter("_op_dk")
"""Of an operation: what runs the kernel of a given dispatch key. PyTorch has no other name for it."""
MOST_JOINED_AXES = 4
WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Of operations whose result the host needs, or whose shape depends on values."""


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
        """By operation."""
        self.waits: Counter[str] = Counter()
        """By operation."""
        self.num_uploads = 0
        self.num_downloaded_bytes = 0

    def __enter__(self) -> "DeviceCounts":
        self.active.append(self)
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self.active.pop()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(function, args, kwargs or {})

    def run(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on the values of its tensors and count it, if one of them is of the GPU.

        Operations that are composed of others are taken apart, and those are counted. In inference mode PyTorch itself
        does so only after this place, and outside of it before.

        Raises:
            RuntimeError: A tensor of the host is where a GPU accepts none.
        """
        inputs = tree_leaves((args, kwargs))
        wanted = kwargs.get("device")
        is_there = any(isinstance(one, OnDevice) for one in inputs)
        goes_there = wanted is not None and torch.device(wanted).type == PRETENDED.type
        if not (is_there or goes_there):
            return function(*args, **kwargs)
        if (key := _find_composition(function)) is not None:
            with self:
                return get_chooser(function)(key, *args, **kwargs)
        if wanted is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        plain_args, plain = tree_map(_get_values, args), dict(tree_map(_get_values, kwargs))
        result = function(*plain_args, **plain)
        stays = goes_there or (is_there and wanted is None)
        if function.overloadpacket.__name__ == "copy_":
            stays = isinstance(args[0], OnDevice)
        self._count(function, inputs, result, stays)
        # An operation in place returns the tensor that it changed.
        own = {id(_get_values(one)): one for one in inputs if isinstance(one, torch.Tensor)}
        return tree_map(lambda value: _wrap(value, own) if stays else own.get(id(value), value), result)

    def _count(self, function: Any, inputs: Sequence[Any], result: Any, stays: bool) -> None:
        """Count an operation.

        Args:
            function: The operation.
            inputs: Its arguments, without the lists around them.
            result: Its result, on the host.
            stays: Whether the result is a tensor of the GPU.
        """
        name = function.overloadpacket.__name__
        tensors = [one for one in inputs if isinstance(one, torch.Tensor)]
        on_host = [one for one in tensors if not isinstance(one, OnDevice)]
        if name in ("copy_", "_to_copy"):
            if not stays:
                self.waits["copy to the host"] += 1
            elif isinstance(tensors[-1], OnDevice) is False:
                self.waits["copy from the host"] += 1
        elif name in INDEXING:
            self.waits[name] += any(one.dtype == torch.bool for one in tensors[1:])
            self.waits["copy from the host"] += sum(one.dim() > 0 for one in on_host)
        elif WAITING_TAGS & set(function.tags):
            self.waits[name] += 1
        elif any(one.dim() > 0 for one in on_host):
            raise RuntimeError(f"{name} needs all tensors on one device")
        self.waits = +self.waits
        if name not in FREE and not _is_view(function, tensors, result):
            self.launches[name] += _count_kernels(name, tensors)


def _find_composition(function: Any) -> Any:
    """Find the key under which PyTorch composes an operation of others; None for a kernel, a copy or a view."""
    name = function.overloadpacket.__name__
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if name in WHOLE | FREE or has(function.name(), "CPU"):
        return None
    if has(function.name(), "CompositeImplicitAutograd"):
        return torch._C.DispatchKey.CompositeImplicitAutograd
    if has(function.name(), "CompositeExplicitAutograd") and not function.is_view:
        return torch._C.DispatchKey.CompositeExplicitAutograd
    return None


def _get_values(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _wrap(value: Any, own: dict[int, torch.Tensor]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return own[id(value)] if id(value) in own else OnDevice(value)


def _is_view(function: Any, inputs: Sequence[torch.Tensor], result: Any) -> bool:
    """Whether an operation only returns its input, or views of it."""
    if function.overloadpacket.__name__.endswith("_") or function.name().endswith("out"):
        return False
    places = {_get_values(one).untyped_storage().data_ptr() for one in inputs}
    outputs = [one for one in tree_leaves(result) if isinstance(one, torch.Tensor)]
    return bool(outputs) and all(one.untyped_storage().data_ptr() in places for one in outputs)


def _count_kernels(name: str, inputs: Sequence[torch.Tensor]) -> int:
    """Kernels of an operation: on GPUs one joins tensors of one type and at most four axes, else each is copied."""
    is_joined = len({one.dtype for one in inputs}) == 1 and inputs[0].dim() <= MOST_JOINED_AXES
    return len(inputs) if name == "cat" and not is_joined else 1


class CountedTransfers(Transfers):
    """Copies to the pretended GPU and back."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def upload(self, values: np.ndarray) -> torch.Tensor:
        for counts in DeviceCounts.active[-1:]:
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
    """Let a model, and each copy of it, take tensors of the pretended GPU and return such; its work is not counted."""
    model.register_forward_pre_hook(_begin_model)
    model.register_forward_hook(_end_model)


def _begin_model(model: Any, images: Any) -> Any:
    model.casts = torch.autocast("cpu", torch.bfloat16, enabled=torch.is_autocast_enabled(NAMED.type))
    model.casts.__enter__()
    return tree_map(_get_values, images)


def _end_model(model: Any, _: Any, output: Any) -> Any:
    model.casts.__exit__(None, None, None)
    return tree_map(lambda value: _wrap(value, {}), output)
