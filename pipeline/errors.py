"""Every exception that this project raises on purpose. Who can act decides the type.

A wrong argument is a `ValueError`, raised where it is constructed. Everything that an operator has to
act on is a `LabellingError`. A bad image is no exception at all: it becomes a rejected row.
"""

import errno

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk reports that is full, or of which no more may be used."""


class LabellingError(Exception):
    """Something that the operator of a run can act on; its message says which thing, what is wrong, what to do."""


class ShardError(LabellingError):
    """An input shard that cannot be listed or read."""


class StorageError(LabellingError, OSError):
    """A store that cannot be reached, or does not let us do what we ask. An `OSError`, as it is on a local disk."""


class BucketError(LabellingError):
    """A bucket that is not there: the store answers, so waiting does not help."""


class ClusterError(LabellingError):
    """A Ray that does not start, or that cannot be reached."""


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
