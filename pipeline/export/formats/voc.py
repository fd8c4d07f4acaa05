"""PASCAL VOC: JPEGImages, SegmentationClass with palette PNGs, labelmap.txt, lists of the splits."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.run.config import IGNORE_LABEL

IGNORED_NAME = "ignored"
"""Of pixels that belong to no class: without a line for their colour, datumaro refuses the whole data set."""


@dataclass(frozen=True, kw_only=True)
class VocFormat:
    """Options of format voc."""

    keep_photos: bool = False
    """Keep photos of other formats than JPEG as they are. Default: they become JPEG of quality 95, since most tools of
    this format read JPEGImages/NAME.jpg alone."""

    def check(self, context: ExportContext) -> None:
        """Check that labelmap.txt can hold names and colours of the classes.

        Raises:
            ValueError: It cannot.
        """
        for name in context.class_names:
            if re.search(r"[:\r\n]|\A#|\A\s|\s\Z", name):
                raise ValueError(
                    f"class {name!r} cannot stand in labelmap.txt of format voc, which ends names at a colon and "
                    "takes a # for a comment; choose another format"
                )
            if name == IGNORED_NAME:
                raise ValueError(
                    f"class '{IGNORED_NAME}' has the name of ignored pixels in format voc; rename it in the "
                    "vocabulary, or choose another format"
                )
        values = [*range(len(context.class_names)), IGNORE_LABEL]
        colours = [tuple(colour) for colour in context.palette[values].tolist()]
        twice = [colour for colour in colours if colours.count(colour) > 1]
        if twice:
            raise ValueError(
                f"two classes, or a class and ignored pixels, have the colour {twice[0]}, and tools of format voc tell "
                "classes by colour; give each class its own in the vocabulary, or choose another format"
            )

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write photo and mask of each sample; yield its name and split."""
        # Decoders bring Arrow, for which the help of the command does not wait.
        # Decoders bring Arrow, for which the help of the command does not wait.
        from pipeline.export.upright import encode_jpeg
        from pipeline.images.masks import encode_mask

        for sample in samples:
            image, suffix = sample.image, sample.image_suffix
            if suffix != ".jpg" and not self.keep_photos:
                image, suffix = encode_jpeg(image), ".jpg"
            files.put(f"JPEGImages/{sample.name}{suffix}", image)
            files.put(f"SegmentationClass/{sample.name}.png", encode_mask(sample.mask, context.palette))
            yield {"name": sample.name, "split": sample.split, "key": sample.key}

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write labelmap.txt, the list of each split, and keys.tsv, which leads from names to keys."""
        files.put("labelmap.txt", describe_labels(context, has_ignored=True))
        for split in context.splits:
            with files.open(f"ImageSets/Segmentation/{split}.txt") as file:
                for entry in entries():
                    if entry["split"] == split:
                        file.write(f"{entry['name']}\n".encode())
        with files.open("keys.tsv") as file:
            for entry in entries():
                key = re.sub(r"[\t\r\n\\]", lambda found: ascii(found[0])[1:-1], str(entry["key"]))
                file.write(f"{entry['name']}\t{key}\n".encode())


def describe_labels(context: ExportContext, *, has_ignored: bool) -> bytes:
    """Write labelmap.txt, which names the colour of each class, and that of ignored pixels if the masks have them."""
    colours = context.palette.tolist()
    lines = ["# label:color_rgb:parts:actions"]
    named = [*enumerate(context.class_names), *([(IGNORE_LABEL, IGNORED_NAME)] if has_ignored else [])]
    for value, name in named:
        lines.append(f"{name}:{','.join(map(str, colours[value]))}::")
    return "".join(f"{line}\n" for line in lines).encode()
