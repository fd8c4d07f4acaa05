"""What training minimises."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from models.losses import (
    balance_classes,
    compute_contrast_losses,
    compute_loss,
    score_asymmetric,
    score_soft_margin,
    score_without_large_losses,
    weigh_positives,
)
from models.mctformer import MCTformer, MCTformerConfig, Variant

LABELS = torch.tensor([[True, False, True], [False, True, False]])


def make_output(variant: Any) -> Any:
    torch.manual_seed(0)
    config = MCTformerConfig(variant=variant, num_classes=3, image_size=32, width=24, depth=2, num_heads=2)
    return MCTformer(config)(torch.randn(2, 3, 32, 32))


def test_each_variant_sums_its_own_parts() -> None:
    parts = compute_loss(make_output(Variant.V1), LABELS, Variant.V1)
    assert (parts.patch_loss, parts.contrast_loss) == (None, None)
    assert parts.total == parts.class_loss
    parts = compute_loss(make_output(Variant.V2), LABELS, Variant.V2)
    assert parts.contrast_loss is None
    torch.testing.assert_close(parts.total, parts.class_loss + parts.patch_loss)
    parts = compute_loss(make_output(Variant.PLUS), LABELS, Variant.PLUS, contrast_weight=0.5)
    torch.testing.assert_close(parts.total, parts.class_loss + parts.patch_loss + 0.5 * parts.contrast_loss)


def test_class_loss_is_binary_cross_entropy_of_every_class() -> None:
    output = make_output(Variant.V1)
    expected = functional.binary_cross_entropy_with_logits(output.class_logits, LABELS.float())
    torch.testing.assert_close(compute_loss(output, LABELS, Variant.V1).total, expected)


def compute_contrast(tokens: Any, labels: Any) -> Any:
    return compute_contrast_losses(tokens, labels).mean()


def test_contrast_is_low_for_tokens_that_differ_and_high_for_equal_ones() -> None:
    apart = torch.eye(3).expand(4, 2, 3, 3)
    equal = torch.ones(4, 2, 3, 3)
    assert compute_contrast(apart, LABELS) < compute_contrast(equal, LABELS)
    assert float(compute_contrast(equal, LABELS)) == pytest.approx(float(torch.tensor(3.0).log()))


def test_contrast_counts_present_classes_only() -> None:
    tokens = torch.randn(2, 1, 3, 8)
    both = compute_contrast(tokens, torch.tensor([[True, False, True]]))
    first, third = (compute_contrast(tokens, torch.eye(3).bool()[i : i + 1]) for i in (0, 2))
    torch.testing.assert_close(both, (first + third) / 2)
    assert compute_contrast(tokens, torch.zeros(1, 3).bool()) == 0


@pytest.mark.parametrize("variant", list(Variant))
def test_image_of_weight_zero_has_no_effect(variant: Any) -> None:
    output = make_output(variant)
    first_only = compute_loss(output, LABELS, variant, sample_weights=torch.tensor([1.0, 0.0]))
    other_labels = torch.stack([LABELS[0], ~LABELS[1]])
    again = compute_loss(output, other_labels, variant, sample_weights=torch.tensor([1.0, 0.0]))
    assert first_only.total == again.total
    assert first_only.total != compute_loss(output, LABELS, variant).total


def test_loss_of_images_of_weight_zero_alone_is_zero() -> None:
    parts = compute_loss(make_output(Variant.PLUS), LABELS, Variant.PLUS, sample_weights=torch.zeros(2))
    assert parts.total == 0


def test_asymmetric_loss_without_exponents_and_margin_is_binary_cross_entropy() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([[1.0, 0, 1]] * 4)
    plain = score_asymmetric(logits, targets, focus_negative=0.0, focus_positive=0.0, margin=0.0)
    torch.testing.assert_close(plain, score_soft_margin(logits, targets))


def test_asymmetric_loss_lowers_easy_negatives_and_is_zero_below_the_margin() -> None:
    logits, targets = torch.tensor([[-4.0, -1.0, 3.0]]), torch.zeros(1, 3)
    losses = score_asymmetric(logits, targets, focus_negative=4.0, focus_positive=0.0, margin=0.05)
    kept = losses / score_soft_margin(logits, targets)
    assert losses[0, 0] == 0
    assert 0 < kept[0, 1] < 0.01
    assert kept[0, 2] > 0.5


def test_asymmetric_loss_and_its_gradient_are_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 0, 1, 1]])
    losses = score_asymmetric(logits, targets, focus_negative=4.0, focus_positive=1.0, margin=0.05)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()


def test_largest_losses_of_untagged_classes_are_excluded() -> None:
    logits, targets = torch.tensor([[5.0, 2.0, -3.0], [-4.0, -9.0, 1.0]]), torch.tensor([[0.0, 1, 0], [1, 0, 0]])
    losses = score_without_large_losses(logits, targets, rejected_share=0.5)
    plain = score_soft_margin(logits, targets)
    assert losses[0, 0] == losses[1, 2] == 0
    untouched = torch.tensor([[False, True, True], [True, True, False]])
    assert torch.equal(losses[untouched], plain[untouched])
    assert torch.equal(score_without_large_losses(logits, targets, rejected_share=0.0), plain)


def test_rare_classes_weigh_more_and_classes_without_images_weigh_one() -> None:
    weights = balance_classes(torch.tensor([100.0, 25.0, 400.0, 0.0]), 0.5)
    assert weights.tolist() == [1.0, 2.0, 0.5, 1.0]
    assert balance_classes(torch.tensor([100.0, 25.0]), 0.0).tolist() == [1.0, 1.0]
    logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    ratio = weigh_positives(score_soft_margin, torch.tensor([3.0, 3.0]))(logits, targets) / score_soft_margin(
        logits, targets
    )
    assert ratio.tolist() == [[3.0, 1.0]]
