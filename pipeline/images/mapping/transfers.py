"""Copies between the host and the device of a model, without a wait until their result is needed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class Transfers:
    """Copies to a device and back.

    On a GPU, arrays travel through pinned memory on a stream of their own, so that they arrive while the device still
    computes the batch before.
    """

    def __init__(self, device: torch.device) -> None:
        """Open the stream of a GPU; other devices need none."""
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def upload(self, values: np.ndarray) -> Tensor:
        """Copy an array to the device. What is queued there afterwards waits for it; the host does not."""
        on_host = torch.from_numpy(values)
        if self._stream is None:
            return on_host.to(self._device)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            on_device = on_host.pin_memory().to(self._device, non_blocking=True)
        computing.wait_stream(self._stream)
        # Its memory may be used again only after the computation.
        on_device.record_stream(computing)
        return on_device

    def download(self, values: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
        """Begin to copy tensors to the host.

        Returns:
            Function that waits for them and returns them as arrays.
        """
        # A copy that does not block gets pinned memory by itself.
        on_host = [one.to("cpu", non_blocking=self._stream is not None) for one in values]
        if self._stream is None:
            return lambda: [one.numpy() for one in on_host]
        # A wait that does not take a core from the workers.
        done = torch.cuda.Event(blocking=True)
        done.record(torch.cuda.current_stream(self._device))

        def wait() -> list[np.ndarray]:
            done.synchronize()
            return [one.numpy() for one in on_host]

        return wait
