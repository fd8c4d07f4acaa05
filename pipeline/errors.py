"""The exceptions of this project. Who can act decides the type.

A wrong argument is a `ValueError`, raised at construction. Everything that an operator has to act on is a
`LabellingError`. A bad image is not an exception: it becomes a rejected row.
"""

import errno

from pipeline.printable import escape_controls

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a full disk or an exceeded quota."""


class LabellingError(Exception):
    """An error that the operator of a run can act on; its message contains which thing, what is wrong, what to do."""

    def __str__(self) -> str:
        """Message in one line, with control characters escaped: names in it may contain terminal escapes."""
        return escape_controls(super().__str__())


class ShardError(LabellingError):
    """An input shard that cannot be listed or read."""


class ColumnError(ShardError):
    """A Parquet file without a column that is needed, or with one of another type."""


class TagsError(LabellingError):
    """First samples of a run whose tags cannot be read as the configuration says, or that have no images."""


class ChunkError(LabellingError):
    """A chunk of which no image can be labelled."""


class StorageError(LabellingError, OSError):
    """A store that cannot be reached or refuses a request. An `OSError`, as on a local disk."""


class UriError(LabellingError):
    """A URI that leads to no store: its scheme is unknown, or the driver of its store is not installed."""


class PathError(StorageError):
    """A local path that cannot be used: no permission, or a folder in place of a file."""


class BucketError(LabellingError):
    """A missing bucket: the store responds, so waiting does not help."""


class ClusterError(LabellingError):
    """A Ray cluster that does not start or cannot be reached."""


class OutageError(StorageError):
    """An outage in another process, whose cause is not pickled."""


class VocabularyError(LabellingError):
    """A vocabulary file that is unusable or does not match the model."""


class BundleError(LabellingError):
    """A model directory or checkpoint that is unusable."""


class CalibrationError(LabellingError):
    """A file of thresholds that is unusable or was made for other class maps."""


class ManifestError(LabellingError):
    """An output file whose content does not match its name."""


class TruthError(LabellingError):
    """A true mask that cannot be compared with its image; the others can."""


class TruthFrameError(LabellingError):
    """A true mask that fits its image in two ways, and does not say in which."""


class CorrectionError(LabellingError):
    """A corrected mask, or a file of them, that cannot be imported."""


class RejectionLimitError(LabellingError):
    """A shard with too many rejected rows to be published."""


class RunConflictError(LabellingError):
    """An output folder that belongs to another run, or inputs that changed under their parts."""


class GrowthConflictError(RunConflictError):
    """A collection that another driver added to the run at the same time: what is new has to be listed again."""


class WaveError(LabellingError):
    """A wave of a labelling run that ended early: Ray or a worker failed, or reports stopped."""


class TrainingError(LabellingError):
    """A training run that cannot continue, and would fail again without a change."""


def is_store_failure(error: BaseException) -> bool:
    """Check whether an error comes from a disk or store, so that a retry may help.

    Damaged content stays damaged; pyarrow reports some damage as an `OSError` without its own type or number.

    >>> is_store_failure(OSError("Corrupt snappy compressed data")), is_store_failure(PermissionError(13, "denied"))
    (False, True)
    """
    return isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None)


MAX_DESCRIBED = 500
"""Characters of an exception's text that a message repeats: some texts contain the whole input."""


def describe_exception(error: BaseException) -> str:
    """One line for an exception that is not ours: its type and text, with unprintable characters escaped.

    >>> describe_exception(KeyError("a\x1b[2J")), describe_exception(MemoryError())
    ("KeyError: 'a\\\\x1b[2J'", 'MemoryError')
    """
    text = " ".join(str(error)[:MAX_DESCRIBED].split())
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
