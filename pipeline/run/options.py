"""How a run is executed. Nothing here changes the bytes that come out, except by rounding on GPUs."""

from dataclasses import dataclass
from typing import Literal

from pipeline.storage.outage import DEFAULT_OUTAGE_S


@dataclass(frozen=True, kw_only=True)
class DriverOptions:
    """How patient a driver is."""

    no_progress_timeout_s: float = 300.0
    """Seconds without any progress (no chunk, no busy worker) after which the workers are ended by force and the run
    resumes from what is committed. Waiting for GPUs that may still join does not count."""
    store_outage_s: float = DEFAULT_OUTAGE_S
    """Seconds to wait for a store that is away, or a disk that is full; 0: not at all."""

    def __post_init__(self) -> None:
        if not self.no_progress_timeout_s > 0:
            raise ValueError(f"need no_progress_timeout_s > 0, got {self.no_progress_timeout_s}")
        if not self.store_outage_s >= 0:
            raise ValueError(f"need store_outage_s >= 0, got {self.store_outage_s}")


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(DriverOptions):
    """How a worker labels chunks."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """cuda, cpu, or auto: cuda when the worker holds a GPU."""
    batch_size: int | None = None
    """Images of one shape in a forward pass on a GPU. Default: as many as fill it and fit its memory."""
    max_rejected_fraction: float = 0.5
    """A shard with a larger share of rejected rows is not published; no_known_tag, download_failed and not_found do not
    count."""
    stall_timeout_s: float = 300.0
    """Seconds without progress on a chunk after which its worker is ended and the chunk tried again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device not in ("auto", "cuda", "cpu"):
            raise ValueError(f"device must be auto, cuda or cpu, got '{self.device}'")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"need batch_size >= 1 or None, got {self.batch_size}")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise ValueError(f"need 0 <= max_rejected_fraction <= 1, got {self.max_rejected_fraction}")
        if not self.stall_timeout_s > 0:
            raise ValueError(f"need stall_timeout_s > 0, got {self.stall_timeout_s}")


@dataclass(frozen=True, kw_only=True)
class LabelOptions(ExecutionOptions):
    """How chunks are labelled, and by how many actors."""

    gpus_per_actor: float = 1.0
    """GPUs of a labelling actor: 1, a fraction to share one, 0 to label on CPUs."""
    cpus_per_actor: float = 1.0
    """CPUs of a labelling actor: for decoding and encoding, and on CPUs for the model too."""
    num_actors: int = 1
    """Labelling actors, each with its own copy of the model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_actor < 0 or self.cpus_per_actor <= 0:
            raise ValueError(
                f"need gpus_per_actor >= 0 and cpus_per_actor > 0, got {self.gpus_per_actor} and {self.cpus_per_actor}"
            )
        if self.gpus_per_actor > 1 and not float(self.gpus_per_actor).is_integer():
            raise ValueError(f"need gpus_per_actor to be a fraction or a whole number, got {self.gpus_per_actor}")
        if self.num_actors < 1:
            raise ValueError(f"need num_actors >= 1, got {self.num_actors}")
