"""A model that labels photos in this process, with the code of the labelling job and without a cluster."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from pipeline.bundles import load_bundle, require_same_classes
from pipeline.errors import LabellingError
from pipeline.images.masks import build_palette
from pipeline.labelling.batches import limit_batch_size
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.library.encoding import Photo, encode_photo, name_photo
from pipeline.library.labelled_photo import LabelledPhoto
from pipeline.published.rows import MaskRow
from pipeline.run.config import LabelConfig, MapKind, settle_config
from pipeline.run.records import Sample
from pipeline.run.vocabulary import BACKGROUND, Vocabulary, load_vocabulary, parse_vocabulary
from pipeline.thresholds.calibration import describe_maps, use_calibration

VocabularySource = str | os.PathLike[str] | Mapping[str, Any] | Vocabulary
"""A vocabulary, its fields, or the path or URI of its file."""


class PhotoLabeler:
    """A model on a device that makes masks of photos and their tags."""

    def __init__(
        self,
        bundle_uri: str,
        config: LabelConfig,
        *,
        vocabulary: VocabularySource | None = None,
        calibration: str | None = None,
        device: str = "auto",
    ) -> None:
        """Load a model bundle.

        Args:
            bundle_uri: Folder of the bundle.
            config: How class maps and masks are made, as in a run. Class maps are kept, whatever it says.
            vocabulary: Its classes are those of the model, in the same order; None: the names that the bundle has.
            calibration: Path or URI of a calibration, whose thresholds replace those of `config`.
            device: auto, cpu, cuda or cuda:N; auto is the first GPU, or the CPU without one.

        Raises:
            BundleError: There is no bundle, it is damaged, or its classes are not those of the vocabulary.
            VocabularyError: The vocabulary is missing or cannot be used.
            CalibrationError: The calibration cannot be used, or was made for other class maps.
            FileNotFoundError: There is no such calibration.
            ValueError: The device or a setting does not fit.
            LabellingError: PyTorch sees no such GPU.
        """
        self.device = _choose_device(device)
        model, bundle, self.model_digest = load_bundle(bundle_uri)
        self.bundle_uri = bundle_uri
        self.vocabulary = _read_vocabulary(vocabulary, bundle.class_names)
        require_same_classes(bundle, self.vocabulary)
        if config.maps.kind == MapKind.PATCH_CAM and str(model.config.variant) == "v1":
            raise ValueError("this model (variant v1) has no patch CAM; use maps.kind attention or fused")
        config = settle_config(config, model.config.grid_side)
        if calibration is not None:
            maps = describe_maps(self.model_digest, self.vocabulary.classes, config)
            config = replace(config, maps=use_calibration(calibration, maps).apply(config.maps))
        self.config = replace(config, maps=replace(config.maps, keep_maps=True))
        on_gpu = self.device.type == "cuda"
        self._palette = build_palette(self.vocabulary.colours, self.vocabulary.classes)
        self._labeler = ChunkLabeler(
            model=model,
            bundle=bundle,
            vocabulary=self.vocabulary,
            config=self.config,
            device=self.device,
            batch_size=limit_batch_size(None, self.device),
            num_workers=min(4, os.cpu_count() or 1),
            use_bf16=on_gpu,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each mask value; the first is the background."""
        return (BACKGROUND, *self.vocabulary.classes)

    def label(self, image: Photo, tags: Iterable[str], *, key: str | None = None) -> LabelledPhoto:
        """Label one photo.

        Args:
            image: An encoded image, its path or URI, a Pillow image, or an array of RGB pixels. The EXIF orientation of
                all but arrays counts.
            tags: What is in the photo: names or aliases of classes. Unknown ones are reported.
            key: Key of the row; None: the name of its file.

        Returns:
            Mask, maps and statistics, or the reason why the photo was rejected.

        Raises:
            FileNotFoundError: There is no file at the path.
            TypeError, ValueError: It is no photo, or tags are no texts.
        """
        return self.label_many([image], [tags], keys=None if key is None else [key])[0]

    def label_many(
        self, images: Sequence[Photo], tags: Sequence[Iterable[str]], *, keys: Sequence[str] | None = None
    ) -> list[LabelledPhoto]:
        """Label several photos, in batches on a GPU; arguments and results are those of `label`.

        Raises:
            FileNotFoundError: There is no file at a path.
            TypeError, ValueError: One is no photo, tags are no texts, or there are not as many tags or keys as photos.
        """
        names = [name_photo(image) for image in images] if keys is None else list(keys)
        if not len(images) == len(tags) == len(names):
            raise ValueError(
                f"need tags and a key for each photo, got {len(images)} photos, {len(tags)} lists of tags and "
                f"{len(names)} keys"
            )
        checked = [_check_tags(some) for some in tags]
        payloads = [encode_photo(image) for image in images]
        samples = [
            Sample(key=name, image=payload, tags=some)
            for name, payload, some in zip(names, payloads, checked, strict=True)
        ]
        rows = self._labeler.label_chunk(samples).to_pylist()
        return [
            LabelledPhoto(
                row=MaskRow(values | {"index": place}, "", self.class_names),
                encoded_image=payload,
                palette=self._palette,
                advice=self._advise(some) if values["reason"] == "no_known_tag" else "",
                max_image_pixels=self.config.inputs.max_image_pixels,
            )
            for place, (values, payload, some) in enumerate(zip(rows, payloads, checked, strict=True))
        ]

    def close(self) -> None:
        """End the threads that decode and draw."""
        self._labeler.close()

    def __enter__(self) -> "PhotoLabeler":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads that decode and draw."""
        self.close()

    def __repr__(self) -> str:
        """Bundle, classes and device."""
        classes = self.vocabulary.classes
        some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        return f"<PhotoLabeler of '{self.bundle_uri}': {len(classes)} classes ({some}) on {self.device}>"

    def _advise(self, tags: Sequence[str]) -> str:
        classes = self.vocabulary.classes
        for tag in tags:
            if alike := difflib.get_close_matches(tag.lower(), [name.lower() for name in classes], n=1):
                return f"did you mean {alike[0]!r}?"
        return f"the classes are {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}"


def _choose_device(device: str) -> torch.device:
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda", 0) if num_gpus else torch.device("cpu")
    kind, _, number = str(device).partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"need device auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cpu":
        return torch.device("cpu")
    if int(number or 0) >= num_gpus:
        raise LabellingError(f"device {device!r} is not there: PyTorch sees {num_gpus} GPUs; use device='cpu'")
    return torch.device("cuda", int(number or 0))


def _read_vocabulary(source: VocabularySource | None, class_names: Sequence[str]) -> Vocabulary:
    match source:
        case None:
            return Vocabulary(classes=tuple(class_names))
        case Vocabulary():
            return source
        case Mapping():
            return parse_vocabulary(dict(source))
        case _:
            return load_vocabulary(os.fspath(source))


def _check_tags(tags: Iterable[str] | Any) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise ValueError(f"need a list of tags, got the text {tags!r}; write [{tags!r}]")
    found = tuple(tags)
    if wrong := [tag for tag in found if not isinstance(tag, str)]:
        raise ValueError(f"need tags as texts, got {wrong[0]!r}")
    return found
