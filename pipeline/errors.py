"""Every exception that this project raises on purpose. Who can act decides the type.

A wrong argument is a `ValueError`, raised where it is constructed. Everything that an operator has to
act on is a `LabellingError`. A bad image is no exception at all: it becomes a rejected row.
"""

import errno

from pipeline.printable import escape_controls

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk reports that is full, or of which no more may be used."""


class LabellingError(Exception):
    """Something that the operator of a run can act on; its message says which thing, what is wrong, what to do."""

    def __str__(self) -> str:
        """Give the message in one line: names in it may hold characters that a terminal obeys."""
        return escape_controls(super().__str__())


class ShardError(LabellingError):
    """An input shard that cannot be listed or read."""


class ChunkError(LabellingError):
    """A chunk of which no image can be labelled."""


class StorageError(LabellingError, OSError):
    """A store that cannot be reached, or does not let us do what we ask. An `OSError`, as it is on a local disk."""


class BucketError(LabellingError):
    """A bucket that is not there: the store answers, so waiting does not help."""


class ClusterError(LabellingError):
    """A Ray that does not start, or that cannot be reached."""


class OutageError(StorageError):
    """An outage of a store that another process met: what caused it does not travel."""


class VocabularyError(LabellingError):
    """A vocabulary file that is not usable, or that does not fit the model."""


class BundleError(LabellingError):
    """A model directory or checkpoint that is not usable."""


class CalibrationError(LabellingError):
    """A file of thresholds that is not usable, or was made for other class maps."""


class ManifestError(LabellingError):
    """An output file that is not what its name promises."""


class RejectionLimitError(LabellingError):
    """A shard of which too many rows were rejected to be published."""


class RunConflictError(LabellingError):
    """An output folder that belongs to another run, or inputs that changed under their parts."""


class WaveError(LabellingError):
    """A wave of a labelling run that ended early: Ray failed, a worker did, or nothing was heard of it."""


class TrainingError(LabellingError):
    """A training run that cannot go on, and would not if it were run again as it is."""


def is_store_failure(error: BaseException) -> bool:
    """Tell whether an error is that of a disk or store, so that trying again may help.

    What is damaged stays so; pyarrow reports some damage as an `OSError` without a type or number of its own.

    >>> is_store_failure(OSError("Corrupt snappy compressed data")), is_store_failure(PermissionError(13, "denied"))
    (False, True)
    """
    return isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None)


MAX_DESCRIBED = 500
"""Characters of an exception's own words that a message repeats: some repeat what they choked on."""


def describe_exception(error: BaseException) -> str:
    """Say in one line what was raised, for exceptions that are not ours; what cannot be printed is escaped.

    >>> describe_exception(KeyError("a\x1b[2J")), describe_exception(MemoryError())
    ("KeyError: 'a\\\\x1b[2J'", 'MemoryError')
    """
    said = " ".join(str(error)[:MAX_DESCRIBED].split())
    said = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in said)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
