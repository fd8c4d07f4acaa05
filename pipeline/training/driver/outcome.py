"""The end of a training run: the best checkpoint becomes the bundle."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ray.train import Result

from models.bundle import ModelBundle
from pipeline.bundles import save_bundle
from pipeline.errors import TrainingError
from pipeline.run.fingerprint import get_library_version
from pipeline.training.config import describe_train_config
from pipeline.training.data.survey import Survey
from pipeline.training.driver.run import TrainingRun
from pipeline.training.events import EpochRecord
from pipeline.training.worker.network import InitialModel
from pipeline.training.worker.state import TrainingState, load_state

LIBRARIES = ("torch", "torchvision", "timm", "ray", "numpy", "pillow")
"""Their versions are part of a bundle's provenance."""


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """History of a finished run, and the saved bundle."""

    history: list[EpochRecord]
    """One record per epoch, those of earlier attempts included."""
    best_epoch: int
    """From 1; its weights are those of the bundle."""
    rule: str
    """How the best epoch was chosen, in words."""
    digest: str
    """Of the saved bundle."""


def save_outcome(
    run: TrainingRun, initial: InitialModel, surveys: Mapping[str, Survey], result: Result
) -> TrainingOutcome:
    """Save the best checkpoint as the run's bundle.

    Args:
        run: The run that has ended.
        initial: Its network, which takes the best weights, and the inputs of that network.
        surveys: Of the splits.
        result: Ray Train's.

    Raises:
        TrainingError: The newest checkpoint is not that of the last epoch.
    """
    latest = _load_finished(run, result)
    history = latest.progress.history
    checkpoints = {metrics["epoch"]: checkpoint for checkpoint, metrics in result.best_checkpoints or ()}
    checkpoints = {epoch: checkpoints[epoch] for epoch in checkpoints if 1 <= epoch <= len(history)}
    best_epoch = max(checkpoints, key=lambda epoch: (history[epoch - 1]["score"], epoch), default=len(history))
    best = load_state(checkpoints[best_epoch], device="cpu") if checkpoints else latest
    initial.network.load_state_dict(best.best_weights)
    rule = describe_rule(history)
    bundle = ModelBundle(
        config=initial.network.config,
        class_names=tuple(run.vocabulary.classes),
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        backbone=run.config.model.backbone,
        recipe=describe_train_config(run.config),
        metrics={"best": history[best_epoch - 1], "rule": rule, "history": history},
        library_version=get_library_version(),
        provenance=describe_provenance(run, surveys),
    )
    digest = save_bundle(run.bundle_uri, initial.network.eval(), bundle)
    return TrainingOutcome(history=history, best_epoch=best_epoch, rule=rule, digest=digest)


def _load_finished(run: TrainingRun, result: Result) -> TrainingState:
    """Load the newest checkpoint; it must contain all epochs."""
    latest = None if result.checkpoint is None else load_state(result.checkpoint, device="cpu")
    num_done = len(latest.progress.history) if latest else 0
    if latest is None or num_done < run.config.optimizer.epochs:
        raise TrainingError(
            f"training ended in epoch {num_done + 1} of {run.config.optimizer.epochs}; run the same command again to "
            "continue"
        )
    return latest


def describe_rule(history: Sequence[EpochRecord]) -> str:
    """Describe how the best epoch of a run was chosen; see `pipeline.training.events.compute_score`."""
    if not any(record["validation"] for record in history):
        return "the last, as there is no validation"
    heads = "class and patch scores" if any(record["patch_validation"] for record in history) else "class scores"
    return f"highest mean average precision of {heads} on the validation images; of equals the later"


def describe_provenance(run: TrainingRun, surveys: Mapping[str, Survey]) -> dict[str, Any]:
    """Describe the data and the libraries of a model as plain values."""
    versions = {name: version(name) for name in LIBRARIES}
    return {
        "run_fingerprint": run.fingerprint,
        "data_fingerprint": run.data_fingerprint,
        "data": {
            split: {"num_samples": survey.num_samples, "num_usable": survey.num_usable}
            for split, survey in surveys.items()
        },
        "versions": {"python": platform.python_version(), **versions},
    }
