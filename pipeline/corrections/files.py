"""Files of annotation tools, told apart by their content."""

import json
from collections.abc import Iterator
from typing import Literal

from pipeline.corrections.coco import read_coco
from pipeline.corrections.cvat import read_cvat
from pipeline.corrections.drawing import Correction
from pipeline.corrections.label_studio import read_label_studio
from pipeline.errors import CorrectionError
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.reading import read_bytes

FileFormat = Literal["auto", "coco", "cvat", "label-studio"]


def read_corrections(
    uri: str, file_format: FileFormat, vocabulary: Vocabulary
) -> tuple[str, Iterator[Correction | None]]:
    """Read the file of a tool, all of it into memory; masks are drawn later.

    Returns:
        The tool, and its corrections; None for a listed image that nobody annotated.

    Raises:
        CorrectionError: It is missing, or none of the formats.
        StorageError: The store failed.
    """
    try:
        payload = read_bytes(uri)
    except FileNotFoundError as error:
        raise CorrectionError(f"'{uri}' does not exist; give the file that the tool exported") from error
    start = payload[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    if file_format == "cvat" or (file_format == "auto" and start.startswith((b"PK", b"<"))):
        return "cvat", read_cvat(payload, uri, vocabulary)
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise CorrectionError(f"'{uri}' is neither JSON nor a file of CVAT: {error}; export it again") from error
    tool = file_format if file_format != "auto" else "label-studio" if isinstance(document, list) else "coco"
    if tool == "label-studio":
        return tool, read_label_studio(document, uri, vocabulary)
    return tool, read_coco(document, uri, vocabulary)
