"""The options of tagmask import-masks."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.command_line.shared_options import StoreOptions


@dataclass(frozen=True, kw_only=True)
class ImportMasksJob:
    """Import corrected masks of annotation tools into a labelling run."""

    labels: str
    """Labelling run whose masks were corrected: output folder or URI of tagmask label or remask."""
    files: tuple[str, ...]
    """Files that the tool exported: JSON of Label Studio, zip or XML of CVAT, JSON of COCO; paths or URIs."""
    format: Literal["auto", "coco", "cvat", "label-studio"] = "auto"
    """Format of the files. auto: by their content."""
    annotator: str | None = None
    """Name of who corrected them. Default: as the files say; those of Label Studio do."""
    keep_unchanged: bool = False
    """Import masks that are as the model drew them, too: a person looked at them, or takes a correction back."""
    dry_run: bool = False
    """Check the files and count, and write nothing."""
    store: Annotated[StoreOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StoreOptions)

    def check(self) -> None:
        """Check the values.

        Raises:
            ValueError: No file is named.
        """
        if not self.files:
            raise ValueError("need --files with one file at least, got none")
