"""Ray Train: starts the workers, replaces lost ones, and resumes from the newest checkpoint."""

import logging

import ray.train
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig
from ray.train.torch import TorchTrainer

from pipeline.storage.arrow_filesystem import open_for_ray
from pipeline.training.driver.checkpoints import drop_damaged, read_place
from pipeline.training.driver.resources import make_scaling
from pipeline.training.worker.loop import LoopSettings, train_on_worker
from pipeline.training.worker.state import CHECKPOINT_FOLDER

logger = logging.getLogger(__name__)


def run_workers(out_uri: str, settings: LoopSettings) -> Result:
    """Train on all workers to the end of the run.

    Ray Train counts the failures since the start of a run. In a long run on nodes that come and go the count always
    reaches its limit. Training therefore starts again if checkpoints were added since the last start,
    or if the workers failed on a damaged checkpoint and another one is whole.

    Raises:
        TrainingError: All checkpoints are damaged.
        ray.train.TrainingFailedError: Workers failed `max_failures` times without a new checkpoint.
    """
    while True:
        place = read_place(out_uri)
        try:
            return _make_trainer(out_uri, settings).fit()
        except ray.train.TrainingFailedError:
            warnings = drop_damaged(out_uri)
            for warning in warnings:
                logger.warning(warning)
            if not warnings and read_place(out_uri) <= place:
                raise


def _make_trainer(out_uri: str, settings: LoopSettings) -> TorchTrainer:
    filesystem, folder = open_for_ray(out_uri)
    return TorchTrainer(
        train_on_worker,
        train_loop_config={"settings": settings},
        scaling_config=make_scaling(settings.workers),
        run_config=RunConfig(
            name=CHECKPOINT_FOLDER,
            storage_path=folder,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=settings.workers.max_failures),
            # Ray Train keeps the best checkpoint and, besides, the latest one.
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
        ),
    )
