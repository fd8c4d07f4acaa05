"""How a labelling run is executed. Nothing here changes the bytes that come out."""

from dataclasses import dataclass

from pipeline.storage.outage import DEFAULT_OUTAGE_S


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How a run is executed. Nothing here changes the bytes that come out."""

    gpus_per_actor: float = 1.0
    """GPUs of a labelling actor: 1, a fraction to share one, 0 to label on CPUs."""
    cpus_per_actor: float = 1.0
    """CPUs of a labelling actor: for decoding and encoding, and on CPUs for the model too."""
    num_actors: int = 1
    """Labelling actors, each with its own copy of the model."""
    device: str = "auto"
    """cuda, cpu, or auto: cuda when the actor holds a GPU."""
    batch_size: int = 16
    """Images of one shape in a forward pass."""
    max_rejected_fraction: float = 0.5
    """A shard with a larger share of rejected rows is not published; no_known_tag and download_failed do not count."""
    stall_timeout_s: float = 300.0
    """A worker that shows no progress on a chunk for so long is ended and its chunk tried again."""
    no_progress_timeout_s: float = 300.0
    """A wave of which the driver hears nothing for so long is ended by force and taken up again."""
    store_outage_s: float = DEFAULT_OUTAGE_S
    """For how long a store that is away, or a disk that is full, is waited for."""

    def __post_init__(self) -> None:
        if self.gpus_per_actor < 0 or self.cpus_per_actor <= 0:
            raise ValueError(
                f"need gpus_per_actor >= 0 and cpus_per_actor > 0, got {self.gpus_per_actor} and {self.cpus_per_actor}"
            )
        if self.gpus_per_actor > 1 and not float(self.gpus_per_actor).is_integer():
            raise ValueError(f"need gpus_per_actor to be a fraction or a whole number, got {self.gpus_per_actor}")
        if self.num_actors < 1 or self.batch_size < 1:
            raise ValueError(f"need num_actors and batch_size >= 1, got {self.num_actors} and {self.batch_size}")
        if self.device not in ("auto", "cuda", "cpu"):
            raise ValueError(f"device must be auto, cuda or cpu, got '{self.device}'")
        if not (self.stall_timeout_s > 0 and self.no_progress_timeout_s > 0):
            raise ValueError(
                f"need stall_timeout_s and no_progress_timeout_s > 0, got {self.stall_timeout_s} and "
                f"{self.no_progress_timeout_s}"
            )
        if not self.store_outage_s >= 0:
            raise ValueError(f"need store_outage_s >= 0, got {self.store_outage_s}")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise ValueError(f"need 0 <= max_rejected_fraction <= 1, got {self.max_rejected_fraction}")
