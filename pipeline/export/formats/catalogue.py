"""The formats of exports by name, with their options."""

from dataclasses import dataclass, field, fields

from pipeline.export.formats.coco import CocoFormat
from pipeline.export.formats.cvat import CvatFormat
from pipeline.export.formats.fiftyone import FiftyoneFormat
from pipeline.export.formats.huggingface import HuggingFaceFormat
from pipeline.export.formats.label_studio import LabelStudioFormat
from pipeline.export.formats.voc import VocFormat
from pipeline.export.formats.webdataset import WebDatasetFormat
from pipeline.export.formats.yolo import YoloFormat
from pipeline.export.samples import ExportFormat


@dataclass(frozen=True, kw_only=True)
class Formats:
    """One field a format, of its name; a new format is a line here."""

    hf: HuggingFaceFormat = field(default_factory=HuggingFaceFormat)
    """Hugging Face data set."""
    webdataset: WebDatasetFormat = field(default_factory=WebDatasetFormat)
    """Tars of photo, mask and JSON."""
    voc: VocFormat = field(default_factory=VocFormat)
    """PASCAL VOC folder."""
    yolo: YoloFormat = field(default_factory=YoloFormat)
    """Polygons for YOLO segmentation."""
    coco: CocoFormat = field(default_factory=CocoFormat)
    """COCO with compressed RLE."""
    label_studio: LabelStudioFormat = field(default_factory=LabelStudioFormat)
    """Tasks of Label Studio with brush masks as predictions."""
    cvat: CvatFormat = field(default_factory=CvatFormat)
    """Zips of images and masks for tasks of CVAT."""
    fiftyone: FiftyoneFormat = field(default_factory=FiftyoneFormat)
    """Image segmentation directories of FiftyOne."""

    def choose(self, name: str) -> ExportFormat:
        """Choose the format of a name.

        >>> Formats().choose("voc")
        VocFormat(keep_photos=False)

        Raises:
            ValueError: There is no such format.
        """
        if name not in FORMAT_NAMES:
            raise ValueError(f"need a format from {', '.join(FORMAT_NAMES)}; got {name!r}")
        chosen: ExportFormat = getattr(self, name.replace("-", "_"))
        return chosen


FORMAT_NAMES = tuple(one.name.replace("_", "-") for one in fields(Formats))
"""Names of the formats, as users write them."""
