"""What training minimises."""

import pytest
import torch
from torch.nn import functional

from models.losses import compute_contrast_loss, compute_loss
from models.mctformer import MCTformer, MCTformerConfig, Variant

LABELS = torch.tensor([[True, False, True], [False, True, False]])


def make_output(variant):
    torch.manual_seed(0)
    config = MCTformerConfig(variant=variant, num_classes=3, image_size=32, width=24, depth=2, num_heads=2)
    return MCTformer(config)(torch.randn(2, 3, 32, 32))


def test_each_variant_sums_its_own_parts():
    parts = compute_loss(make_output(Variant.V1), LABELS, Variant.V1)
    assert (parts.patch_loss, parts.contrast_loss) == (None, None)
    assert parts.total == parts.class_loss
    parts = compute_loss(make_output(Variant.V2), LABELS, Variant.V2)
    assert parts.contrast_loss is None
    torch.testing.assert_close(parts.total, parts.class_loss + parts.patch_loss)
    parts = compute_loss(make_output(Variant.PLUS), LABELS, Variant.PLUS, contrast_weight=0.5)
    torch.testing.assert_close(parts.total, parts.class_loss + parts.patch_loss + 0.5 * parts.contrast_loss)


def test_class_loss_is_binary_cross_entropy_of_every_class():
    output = make_output(Variant.V1)
    expected = functional.binary_cross_entropy_with_logits(output.class_logits, LABELS.float())
    torch.testing.assert_close(compute_loss(output, LABELS, Variant.V1).total, expected)


def test_contrast_is_low_for_tokens_that_differ_and_high_for_equal_ones():
    apart = torch.eye(3).expand(4, 2, 3, 3)
    equal = torch.ones(4, 2, 3, 3)
    assert compute_contrast_loss(apart, LABELS) < compute_contrast_loss(equal, LABELS)
    assert float(compute_contrast_loss(equal, LABELS)) == pytest.approx(float(torch.tensor(3.0).log()))


def test_contrast_counts_present_classes_only():
    tokens = torch.randn(2, 1, 3, 8)
    both = compute_contrast_loss(tokens, torch.tensor([[True, False, True]]))
    first, third = (compute_contrast_loss(tokens, torch.eye(3).bool()[i : i + 1]) for i in (0, 2))
    torch.testing.assert_close(both, (first + third) / 2)
    assert compute_contrast_loss(tokens, torch.zeros(1, 3).bool()) == 0
