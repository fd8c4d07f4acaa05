"""The orientation in a block of EXIF of which other entries may be damaged, and blocks that hold nothing else."""

import struct

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_PREFIX = b"Exif\0\0"


def make_orientation_exif(orientation: int) -> bytes:
    """Make a block of EXIF with an orientation, 1 to 8, and nothing else: 26 bytes.

    >>> read_exif_orientation(make_orientation_exif(6))
    6
    """
    entry = struct.pack(">HHLHH", _ORIENTATION, _SHORT, 1, orientation, 0)
    return struct.pack(">2sHLH", b"MM", 42, 8, 1) + entry + bytes(4)


def read_exif_orientation(exif: bytes) -> int:
    """Read the orientation, 1 to 8; 1, as stored, if there is no valid one."""
    return find_exif_orientation(exif) or 1


def find_exif_orientation(exif: bytes) -> int | None:
    """Find the orientation, 1 to 8; None if there is no valid one."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "L", exif, 4)
        (num_entries,) = struct.unpack_from(order + "H", exif, start)
        for place in range(start + 2, start + 2 + 12 * num_entries, 12):
            tag, kind, number = struct.unpack_from(order + "HHL", exif, place)
            if tag == _ORIENTATION and kind in (_SHORT, _LONG) and number == 1:
                (orientation,) = struct.unpack_from(order + ("H" if kind == _SHORT else "L"), exif, place + 8)
                return orientation if 1 <= orientation <= 8 else None
    except struct.error:
        return None
    return None
