"""Pickled NumPy arrays as tensors, from their bytes: NumPy's own unpickling trusts what the file states."""

import math
import re

import numpy as np
import torch
from torch import Tensor

from models.checkpoints.stand_ins import Record

_PLAIN_TYPE = re.compile(r"f[248]|[iu][1248]")
"""Types of numbers as NumPy pickles them, without byte order."""


def read_array(record: Record) -> Tensor | None:
    """Read a pickled array of plain numbers; None for any other object.

    Its state is (version, shape, dtype, is_fortran, bytes), that of its dtype (version, byte order, ...).
    """
    match record.state:
        case (_, tuple(shape), Record() as dtype, bool(is_fortran), bytes(payload)):
            pass
        case _:
            return None
    code = dtype.arguments[0] if dtype.arguments else None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else None
    if not isinstance(code, str) or not _PLAIN_TYPE.fullmatch(code) or order not in ("<", ">", "|"):
        return None
    has_sides = all(isinstance(side, int) and side >= 0 for side in shape)
    if not has_sides or math.prod(shape) * int(code[1]) != len(payload):
        return None
    # Lengths agree, so this reads no more than the bytes.
    array = np.frombuffer(payload, np.dtype(f"{order}{code}")).reshape(shape, order="F" if is_fortran else "C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
