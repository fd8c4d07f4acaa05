"""Memory without a name that worker processes share with the process of the device.

Memory with a name outlives a process that is killed, and Ray kills its workers. This memory is a file that only open
descriptors hold: the machine takes it back when the last process that has it ends, however it ends. It does not count
as a file in `/dev/shm`, of which containers have little.
"""

import mmap
import os
import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def count_available_bytes() -> int:
    """Bytes of memory that Linux can still give to processes."""
    with Path("/proc/meminfo").open() as file:
        (kibibytes,) = (line.split()[1] for line in file if line.startswith("MemAvailable:"))
    return 1024 * int(kibibytes)


class SharedPixels:
    """Memory that several processes write to and read from."""

    def __init__(self, descriptor: int, path: str) -> None:
        """Map a file into memory.

        Args:
            descriptor: Of the file; closed with the memory.
            path: Under which other processes of the user open the file, as long as this one holds it.

        Raises:
            OSError: It cannot be mapped.
        """
        self.path = path
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0)

    @classmethod
    def create(cls, num_bytes: int) -> "SharedPixels":
        """Take memory from the machine; all of it, so that no write can fail later.

        Raises:
            OSError: The machine has too little, or no such memory.
        """
        if sys.platform != "linux":
            raise OSError(f"memory without a name needs Linux, this is {sys.platform}")
        # Linux would not refuse: it gives all that it has, and then ends processes.
        if num_bytes > (left := count_available_bytes()) // 2:
            raise OSError(f"the machine has {left} bytes left, of which half must stay free")
        descriptor = os.memfd_create("tagmask-pixels")
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)
            return cls(descriptor, f"/proc/{os.getpid()}/fd/{descriptor}")
        except OSError:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, path: str) -> "SharedPixels | None":
        """Map the memory of another process; None if it may not be opened here."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        return cls(descriptor, path)

    def view(self, offset: int, shape: tuple[int, ...]) -> UInt8[np.ndarray, "*shape"]:
        """Array of bytes in the memory, from an offset on."""
        return np.ndarray(shape, np.uint8, self._memory, offset)

    def close(self) -> None:
        """Leave the memory, which no array may view any more."""
        self._memory.close()
        os.close(self._descriptor)
