"""The labelling actor: takes a chunk, commits its part, returns a report."""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pyarrow as pa
import torch

from pipeline.bundles import load_bundle
from pipeline.commit.parts import commit_chunk
from pipeline.commit.worker_reports import REPORT_SCHEMA, ChunkId, ShardFailure, make_row, read_head
from pipeline.errors import ChunkError, LabellingError, describe_exception, is_store_failure
from pipeline.labelling.batches import limit_batch_size
from pipeline.labelling.chunk_rows import to_samples
from pipeline.labelling.isolation import Labeler, label_isolated
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.printable import EscapingFormatter
from pipeline.run.options import LabelOptions
from pipeline.run.records import Reason, Sample
from pipeline.run.run_file import Run
from pipeline.workers.attempts import MAX_DEATHS, MAX_DEATHS_IN_ALL, Attempts
from pipeline.workers.pulse import Reporting
from pipeline.workers.watchdog import Watchdog

logger = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 1800.0
"""Seconds for a commit, without waits for the store, after which the worker is ended. Longer than the retries of any
store's client (`pipeline.storage.filesystems.S3_OPTIONS`) may take."""
MAX_NON_FINITE = 2
"""Consecutive chunks with non-finite model outputs after which the actor exits, before it commits the last one: the
next worker labels that chunk again, and its rows count."""
MAX_MISSES = 2
"""Consecutive chunks that failed in the actor and not in a child process after which the actor exits: its state, such
as its GPU context, is broken, and every chunk would cost the start of a child process."""


class WatchedLabeler:
    """The model of one process on its device, and a watchdog that ends the process when it hangs."""

    def __init__(self, run: Run, options: LabelOptions) -> None:
        """Load the model and pin the device that Ray gave to this process."""
        device = choose_device(options)
        on_gpu = device.type == "cuda"
        num_cpus = max(1, int(options.cpus_per_actor))
        torch.set_num_threads(num_cpus)
        model, bundle, digest = load_bundle(run.model_uri)
        if digest != run.model_digest:
            raise LabellingError(
                f"model '{run.model_uri}' changed while it was used (digest {digest}, expected {run.model_digest}); "
                "label with a new --out"
            )
        self._watchdog = Watchdog(options.stall_timeout_s)
        self._labeler = ChunkLabeler(
            model=model,
            bundle=bundle,
            vocabulary=run.vocabulary,
            config=run.config,
            device=device,
            batch_size=limit_batch_size(options.batch_size, device),
            num_workers=num_cpus if on_gpu else num_cpus + 1,
            use_bf16=on_gpu,
            # On a CPU the model is the work, and the processes would only take its cores. A child process that looks
            # for a deadly image has to die of it itself.
            use_processes=on_gpu and num_cpus > 1 and multiprocessing.parent_process() is None,
        )

    def label(self, samples: Sequence[Sample]) -> pa.Table:
        """Label the samples of a chunk: one row each, in order."""
        name = f"{len(samples)} images from '{samples[0].key}' on" if samples else "no images"
        with self._watchdog.watch(name) as tick:
            return self._labeler.label_chunk(samples, on_progress=tick)


class LabelChunks:
    """The labelling actor: holds the model on its device for as long as it lives."""

    def __init__(
        self,
        run: Run,
        options: LabelOptions,
        attempts: Attempts,
        reporting: Reporting,
        *,
        make_labeler: Callable[[Run, LabelOptions], Labeler] = WatchedLabeler,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
    ) -> None:
        """Load the model and pin the device that Ray gave to this actor.

        Args:
            run: Model, configuration and output folder.
            options: Execution settings.
            attempts: Counter of process deaths per chunk.
            reporting: Settings of its heartbeat, and the function that ends its process.
            make_labeler: Called here, and in the child processes that retry failed chunks.
            commit_timeout_s: Seconds for loading or a commit, without waits for the store, after which the actor exits.
        """
        _log_to_worker_file()
        self._run = run
        self._attempts = attempts
        self._make_labeler = partial(make_labeler, run, options)
        self._commit_timeout_s = commit_timeout_s
        self._end_process = reporting.end_process
        self._pulse = reporting.open()
        self._load()
        self._num_misses = 0
        self._num_non_finite = 0
        self._trying_again = threading.Lock()

    def __call__(self, row: pa.Table) -> pa.Table:
        """Label one chunk and commit it; the end of a shard passes through.

        A chunk whose workers die even while a child process labels it, or while it is committed, fails its shard.

        Args:
            row: One row of `chunk_rows.CHUNK_SCHEMA`, or none.

        Returns:
            A row of `worker_reports.REPORT_SCHEMA`, or none.
        """
        chunk = read_head(row)
        if not isinstance(chunk, ChunkId):
            return REPORT_SCHEMA.empty_table() if chunk is None else make_row(chunk)
        if self._num_misses >= MAX_MISSES:
            self._end_process(f"{self._num_misses} chunks in a row, which a child process labelled without trouble")
        num_deaths = self._attempts.begin(str(chunk))
        if num_deaths >= MAX_DEATHS_IN_ALL:
            error = (
                f"shard '{chunk.shard_name}': {num_deaths} workers died with chunk {chunk.part.chunk_index}, also when "
                "a child process labelled it; look at their logs (memory?), then run the same command again"
            )
            return make_row(ShardFailure(shard_name=chunk.shard_name, error=error))
        try:
            with self._pulse.busy(f"labelling {chunk}"):
                rows = self._label(chunk, to_samples(row), num_deaths)
        except Exception as error:  # noqa: BLE001 (of any type: it concerns the shard of the images alone)
            return self._give_up(chunk, error)
        self._watch_non_finite(rows, num_deaths)
        with self._pulse.busy(f"committing {chunk}", self._commit_timeout_s) as patience:
            report = patience.call(lambda: commit_chunk(rows, chunk, self._run))
        self._attempts.finish(str(chunk))
        return make_row(report)

    def _load(self) -> None:
        """Load the model. Fail if processes of this actor keep dying while they load: Ray would restart it forever."""
        name = f"load {_name_actor()}"
        num_deaths = self._attempts.begin(name)
        if num_deaths >= MAX_DEATHS:
            self._attempts.finish(name)
            raise LabellingError(
                f"{num_deaths} processes died while they loaded model '{self._run.model_uri}'; look at their logs "
                "(memory of the machine or of the device?)"
            )
        with self._pulse.busy(f"loading model '{self._run.model_uri}'", self._commit_timeout_s) as patience:
            self._labeler = patience.call(self._make_labeler)
        self._attempts.finish(name)

    def _give_up(self, chunk: ChunkId, error: Exception) -> pa.Table:
        """Fail the shard of a chunk; raise again what the machine or the store caused."""
        is_of_chunk = isinstance(error, ChunkError) or not isinstance(error, LabellingError)
        if not is_of_chunk or is_store_failure(error):
            raise error
        # If this process is the cause after all, it must not fail other shards.
        self._num_misses += 1
        self._attempts.finish(str(chunk))
        said = str(error) if isinstance(error, LabellingError) else describe_exception(error)
        return make_row(ShardFailure(shard_name=chunk.shard_name, error=f"shard '{chunk.shard_name}': {said}"))

    def _label(self, chunk: ChunkId, samples: Sequence[Sample], num_deaths: int) -> pa.Table:
        started_s = time.monotonic()
        if num_deaths >= MAX_DEATHS:
            logger.warning("%s: %d workers died with it, it is labelled in a child process", chunk, num_deaths)
            rows = label_isolated(self._make_labeler, samples)
        else:
            found = self._try_here(chunk, samples)
            # No longer while an error is handled: it holds what its batches hold, and the child needs the same device.
            rows = found if found is not None else self._label_failed(samples)
        logger.info("%s: labelled %d images in %.2f s", chunk, len(samples), time.monotonic() - started_s)
        return rows

    def _try_here(self, chunk: ChunkId, samples: Sequence[Sample]) -> pa.Table | None:
        """Label a chunk in this process; None if that fails."""
        try:
            try:
                rows = self._labeler.label(samples)
            except BrokenProcessPool:
                # A process beside the device died, with an image of this chunk or of the other one in flight.
                with self._trying_again:
                    rows = self._labeler.label(samples)
        except Exception:  # one image must not fail its shard: a child process finds and rejects it
            logger.exception("%s: labelling failed, it is tried again in a child process", chunk)
            return None
        self._num_misses = 0
        return rows

    def _label_failed(self, samples: Sequence[Sample]) -> pa.Table:
        """Label a chunk in a child process that failed in this one."""
        torch.cuda.empty_cache()
        rows = label_isolated(self._make_labeler, samples)
        if Reason.CRASHED not in rows["reason"].to_pylist():
            self._num_misses += 1
        return rows

    def _watch_non_finite(self, rows: pa.Table, num_deaths: int) -> None:
        """End this process after consecutive chunks with non-finite values: its memory or device may be broken.

        A chunk that a worker died with does not count, because this is another process. So a chunk ends at most one
        worker for such images, and the next worker commits it.
        """
        if Reason.NOT_FINITE not in rows["reason"].to_pylist() or num_deaths > 0:
            self._num_non_finite = 0
            return
        self._num_non_finite += 1
        if self._num_non_finite >= MAX_NON_FINITE:
            self._end_process(f"{self._num_non_finite} chunks in a row for which the model gave non-finite values")


def _name_actor() -> str:
    """Name of the actor, the same in every process that Ray starts for it; without an actor, name of the process."""
    return _find_actor_id() or f"process {os.getpid()}"


def _find_actor_id() -> str | None:
    """Id of the Ray actor that this process is; None without Ray, which a worker without it does not import."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    found: str | None = ray.get_runtime_context().get_actor_id()
    return found


def _log_to_worker_file() -> None:
    """Log the progress of this worker to its log file, to which Ray redirects its output."""
    if _find_actor_id() is not None:
        package = logging.getLogger("pipeline")
        package.setLevel(logging.INFO)
        handler = logging.StreamHandler()
        handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        package.addHandler(handler)


def choose_device(options: LabelOptions) -> torch.device:
    """Choose the device of an actor: the first GPU, because Ray shows an actor only its own GPUs.

    Raises:
        LabellingError: A GPU is requested, and PyTorch sees none.
    """
    wants_cuda = options.device == "cuda" or (options.device == "auto" and options.gpus_per_actor > 0)
    if not wants_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LabellingError(
            "a labelling actor holds a GPU but PyTorch sees no CUDA device there; "
            "check the driver, or pass --gpus-per-worker 0 to label on CPUs"
        )
    torch.cuda.set_device(0)
    return torch.device("cuda", 0)
