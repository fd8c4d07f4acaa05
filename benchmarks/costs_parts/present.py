"""The present code as `side.py` drives it."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from benchmarks.recalling_mapper import RecallingLabeler
from jobs.qualities import QUALITIES
from pipeline.bundles import load_bundle
from pipeline.commit.names import PartName
from pipeline.commit.parts import commit_part, encode_part
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.images.masks import build_palette
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.kept_maps.chunk_rows import decode_rows, encode_rows
from pipeline.kept_maps.remask_task import remask_rows
from pipeline.labelling.host_work import HostJobs
from pipeline.labelling.prepare import ReadyImage, SamplePreparer
from pipeline.run.config import settle_config
from pipeline.run.records import Chunk
from pipeline.run.run_file import MapSource, Run
from pipeline.run.vocabulary import load_vocabulary

BATCH_SIZE = 16


class Code:
    """Steps of labelling with the present code."""

    def __init__(self, *, model: str, vocabulary: str, out: str) -> None:
        """Load the model."""
        self._model, self._bundle, digest = load_bundle(model)
        self._vocabulary = load_vocabulary(vocabulary)
        config = QUALITIES["balanced"]()
        self._config = settle_config(
            replace(config, maps=replace(config.maps, keep_maps=True)), self._model.config.grid_side
        )
        self._run = Run(
            out_uri=out,
            model_uri=model,
            model_digest=digest,
            vocabulary=self._vocabulary,
            config=self._config,
            shards=(),
            fingerprint="0" * 64,
            source=MapSource(labels_uri="", fingerprint="", manifests=()),
        )

    def read(self, shard: str) -> list[Any]:
        """Read the samples of a shard."""
        pieces = read_chunks(list_shards([shard])[0], self._config.inputs)
        return [sample for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples]

    def make_labeler(self, num_workers: int) -> Any:
        """Labeler whose model costs nothing; its workers are processes if there are several."""
        return RecallingLabeler(
            model=self._model,
            bundle=self._bundle,
            vocabulary=self._vocabulary,
            config=self._config,
            device=torch.device("cpu"),
            batch_size=BATCH_SIZE,
            num_workers=num_workers,
            use_bf16=False,
            use_processes=num_workers > 1,
        )

    def commit(self, rows: pa.Table) -> None:
        """Encode and commit rows as a part."""
        payload = encode_part(rows, self._run.fingerprint, "photos", 0)
        commit_part(self._run.out_uri, "photos", PartName(chunk_index=0, end_offset=0), payload)

    def prepare_finishing(self, shard: str) -> Any:
        """Function that finishes the images of a shard; their evidence is found before."""
        patch_size = self._model.config.patch_size
        preparer = SamplePreparer(config=self._config, vocabulary=self._vocabulary, patch_size=patch_size)
        palette = build_palette(self._vocabulary.colours, self._vocabulary.classes)
        jobs = HostJobs(preparer=preparer, config=self._config, palette=palette)
        mapper = ClassMapper(
            model=self._model, bundle=self._bundle, config=self._config, device=torch.device("cpu"), use_bf16=False
        )
        finishing = []
        for image in jobs.prepare(list(enumerate(self.read(shard)))):
            assert isinstance(image, ReadyImage)
            (evidence,) = mapper.queue(image.frame[None], [image.class_ids], [image.upright_size])()
            finishing.append((image.row, evidence))
        return lambda: jobs.finish(finishing)

    def encode_kept(self, rows: pa.Table) -> bytes:
        """Rows with kept maps as they reach the worker that makes new masks."""
        return encode_rows(rows.drop_columns(["mask"]))

    def remask(self, payload: bytes) -> pa.Table:
        """Make new masks of rows with kept maps."""
        return remask_rows(decode_rows(payload), None, self._run)
