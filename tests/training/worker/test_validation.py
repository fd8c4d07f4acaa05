"""Validation of several workers is validation of all their images."""

from typing import Any

import pytest
import torch

from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.training.config import ModelConfig
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.worker.validation import ValidationScores, merge_scores

NAMES = ("cat", "dog", "cow")


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "width": 24, "depth": 2, "num_heads": 2}
    return MCTformer(MCTformerConfig(variant=Variant.V2, num_classes=3, **sizes)).eval()


def make_batch(start: Any, stop: Any, num_fillers: int = 0) -> Any:
    torch.manual_seed(1)
    images = torch.randint(0, 255, (8, 3, 32, 32), dtype=torch.uint8)[start:stop]
    labels = (torch.arange(24).view(8, 3) % 5 < 2)[start:stop]
    fillers = (torch.zeros(num_fillers, 3, 32, 32, dtype=torch.uint8), torch.ones(num_fillers, 3, dtype=torch.bool))
    return TrainingBatch(
        tuple(str(place) for place in range(start, stop)),
        torch.cat([images, fillers[0]]),
        torch.cat([labels, fillers[1]]),
        torch.cat([torch.ones(stop - start), torch.zeros(num_fillers)]),
    )


def collect(network: Any, *batches: Any) -> Any:
    scores = ValidationScores(ModelConfig(variant="v2", image_size=32))
    with torch.inference_mode():
        for batch in batches:
            scores.add(network(batch.images.float() / 255), batch)
    return scores


def test_unequal_shares_of_workers_add_up_to_the_whole_without_padding(network: Any) -> None:
    whole = collect(network, make_batch(0, 8)).describe(NAMES)
    shares = [collect(network, make_batch(0, 3, num_fillers=1), make_batch(3, 5, num_fillers=2)), collect(network)]
    shares.append(collect(network, make_batch(5, 8)))
    merged = merge_scores(shares).describe(NAMES)
    for fields, expected in zip(merged, whole, strict=True):
        assert fields["num_images"] == 8
        assert fields["average_precision"] == expected["average_precision"]
    assert merged[0]["losses"] == pytest.approx(whole[0]["losses"])


def test_classes_that_no_validation_image_shows_have_no_average_precision(network: Any) -> None:
    batch = make_batch(0, 8)
    labels = batch.image_labels.clone()
    labels[:, 1] = False
    validation, _ = collect(network, batch._replace(image_labels=labels)).describe(NAMES)
    assert validation["without_positives"] == ["dog"]
    assert 0 < validation["mean_average_precision"] <= 1
