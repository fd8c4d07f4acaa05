"""Names of exported files: unique, readable, and safe in every file system."""

import re
import unicodedata

MAX_LETTERS = 80
"""Of a key in a name; the last ones, which tell keys of one folder apart."""
_OTHERS = re.compile(r"[^A-Za-z0-9_-]+")


def name_files(key: str, shard_place: int, index: int) -> str:
    """Name the files of a sample, without suffix.

    The places of the shard and of the sample make names unique, also where case does not count. Of the key ASCII
    letters, digits, `_` and `-` remain: other letters have several forms, and tools split names at dots.

    >>> name_files("dogs/Café 1.v2", 0, 7), name_files("猫", 3, 1)
    ('dogs_Cafe_1_v2-0-7', 'image-3-1')

    Args:
        key: Key of the sample.
        shard_place: Place of its shard in the run, from 0.
        index: Place of the sample in its shard, from 0.
    """
    plain = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode()
    letters = _OTHERS.sub("_", plain)[-MAX_LETTERS:].strip("_-")
    return f"{letters or 'image'}-{shard_place}-{index}"
