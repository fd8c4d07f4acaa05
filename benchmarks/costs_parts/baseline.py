"""The code of commit b75fd66 as `side.py` drives it. Its modules are named in text, because they are not here."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch

BATCH_SIZE = 16
SAMPLE_STEP_PX = 16


class RecallingMapper:
    """As `recalling_mapper.RecallingMapper`, for the interface of that commit."""

    def __init__(self, mapper: Any) -> None:
        """Keep nothing yet."""
        self._mapper = mapper
        self._found: dict[tuple[Any, ...], Any] = {}

    def find(self, frames: np.ndarray, class_ids: Any, upright_sizes: Any, guides: np.ndarray | None = None) -> Any:
        """Recall the evidence of a batch; find it if an image is new."""
        samples = frames[:, ::SAMPLE_STEP_PX, ::SAMPLE_STEP_PX]
        keys = [(one.tobytes(), *rest) for one, *rest in zip(samples, class_ids, upright_sizes, strict=True)]
        if any(key not in self._found for key in keys):
            self._found.update(zip(keys, self._mapper.find(frames, class_ids, upright_sizes, guides), strict=True))
        return [self._found[key] for key in keys]


class Code:
    """Steps of labelling with the code of that commit."""

    def __init__(self, *, model: str, vocabulary: str, out: str) -> None:
        """Load the model."""
        config_module, run = import_module("pipeline.config"), import_module("pipeline.run")
        self._model, self._bundle, digest = import_module("pipeline.bundles").load_bundle(model)
        self._vocabulary = import_module("pipeline.vocabulary").load_vocabulary(vocabulary)
        config = import_module("jobs.qualities").QUALITIES["balanced"]()
        self._config = config_module.settle_config(
            replace(config, maps=replace(config.maps, keep_maps=True)), self._model.config.grid_side
        )
        self._run = run.Run(
            out_uri=out,
            model_uri=model,
            model_digest=digest,
            vocabulary=self._vocabulary,
            config=self._config,
            shards=(),
            fingerprint="0" * 64,
            source=run.MapSource(labels_uri="", fingerprint="", manifests=()),
        )

    def read(self, shard: str) -> list[Any]:
        """Read the samples of a shard."""
        shards, records = import_module("pipeline.shards"), import_module("pipeline.records")
        pieces = shards.read_chunks(shards.list_shards([shard])[0], self._config.inputs)
        return [sample for piece in pieces if isinstance(piece, records.Chunk) for sample in piece.samples]

    def make_labeler(self, num_workers: int) -> Any:
        """Labeler whose model costs nothing."""
        labeler = import_module("pipeline.labeler").ChunkLabeler(
            model=self._model,
            bundle=self._bundle,
            vocabulary=self._vocabulary,
            config=self._config,
            device=torch.device("cpu"),
            batch_size=BATCH_SIZE,
            num_threads=num_workers,
            use_bf16=False,
        )
        # As on a GPU.
        labeler._batch_size = BATCH_SIZE
        labeler._window = BATCH_SIZE + 2 * num_workers
        labeler._mapper = RecallingMapper(labeler._mapper)
        return labeler

    def commit(self, rows: Any) -> None:
        """Encode and commit rows as a part."""
        commit = import_module("pipeline.commit")
        payload = commit.encode_part(rows, self._run.fingerprint, "photos", 0)
        commit.commit_part(self._run.out_uri, "photos", commit.PartName(chunk_index=0, end_offset=0), payload)

    def prepare_finishing(self, shard: str) -> Any:
        """Function that finishes the images of a shard; their evidence is found before."""
        labeler = self.make_labeler(1)
        finishing = []
        for numbered in enumerate(self.read(shard)):
            image = labeler._prepare(numbered)
            (evidence,) = labeler._mapper.find(image.frame[None], [image.class_ids], [image.upright_size])
            finishing.append((image, evidence))
        return lambda: [labeler._finish(image, evidence) for image, evidence in finishing]

    def encode_kept(self, rows: Any) -> bytes:
        """Rows with kept maps as they reach the worker that makes new masks."""
        encoded: bytes = import_module("pipeline.kept_maps").encode_rows(rows.drop_columns(["mask"]))
        return encoded

    def remask(self, payload: bytes) -> Any:
        """Make new masks of rows with kept maps."""
        rows = import_module("pipeline.kept_maps").decode_rows(payload)
        return import_module("pipeline.remask").remask_rows(rows, None, self._run)
