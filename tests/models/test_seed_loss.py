"""Patches that learn from the class maps."""

from typing import Any

import pytest
import torch

from models.class_maps import compute_evidence, refine_class_maps, scale_min_max
from models.losses import SeedTerm, compute_loss
from models.mctformer import MCTformer, MCTformerConfig, Variant
from models.seed_loss import Seeds, compute_attention_losses, compute_seed_losses, make_seeds

LABELS = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
TERM = SeedTerm(weight=0.5, background_threshold=0.3, foreground_threshold=0.5)


def make_network(variant: Any = Variant.PLUS) -> Any:
    torch.manual_seed(0)
    config = MCTformerConfig(variant=variant, num_classes=3, image_size=64, width=24, depth=2, num_heads=2)
    network = MCTformer(config)
    # With its initial weights the patch CAM would be near zero everywhere.
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return network


def make_images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def find_seeds(output: Any, low: float = 0.3, high: float = 0.5, labels: Any = LABELS, steps: int = 1) -> Any:
    return make_seeds(
        output,
        labels,
        Variant.PLUS,
        background_threshold=low,
        foreground_threshold=high,
        affinity_steps=steps,
    )


def test_seeds_show_tagged_classes_only_and_one_class_a_patch() -> None:
    seeds = find_seeds(make_network()(make_images()))
    assert seeds.foreground.any((-2, -1)).tolist() == LABELS.tolist()
    assert seeds.foreground.sum(1).max() == 1
    assert not seeds.absent[~LABELS].any()
    assert (seeds.trust > 0).tolist() == LABELS.tolist()


def test_patches_between_the_thresholds_are_no_seeds() -> None:
    output = make_network()(make_images())
    near, wide = find_seeds(output, 0.4, 0.4), find_seeds(output, 0.1, 0.9)
    assert 0 < wide.absent.sum() < near.absent.sum()
    # Seeds of a wide band are also seeds of a narrow one.
    assert not (wide.absent & ~near.absent).any()
    assert not (wide.foreground & ~near.foreground).any()
    assert not (near.absent & near.foreground).any()


def test_class_with_a_high_map_on_a_patch_of_another_class_has_no_gradient_there() -> None:
    output = make_network()(make_images())
    fused = compute_evidence(output, Variant.PLUS, torch.arange(3).expand(3, -1)).fused
    maps = scale_min_max(refine_class_maps(output, fused))
    losses = compute_seed_losses(output.patch_cam, find_seeds(output, 0.3, 0.5), LABELS)
    (gradient,) = torch.autograd.grad(losses.sum(), output.patch_cam)
    # Of the first image, which is tagged with the classes 0 and 2.
    loser, winner, best = maps[0, 0], maps[0, 2], maps[0, [0, 2]].amax(0)
    is_won, is_unsure = (winner > 0.5) & (winner > loser), (best > 0.3) & (best < 0.5)
    for is_patch in (is_won & (loser >= 0.3), is_won & (loser < 0.3), is_unsure & (loser < 0.3)):
        assert is_patch.any()
    assert torch.equal(gradient[0, 0][is_won] != 0, (loser < 0.3)[is_won])
    assert (gradient[0, 2][is_won] < 0).all()
    assert (gradient[0, 0][is_unsure & (loser < 0.3)] > 0).all()
    assert (gradient[0, 1] == 0).all()


def test_seeds_are_made_of_maps_propagated_by_the_given_number_of_steps() -> None:
    output = make_network()(make_images())
    fused = compute_evidence(output, Variant.PLUS, torch.arange(3).expand(3, -1)).fused
    found = [find_seeds(output, 0.5, 0.5, steps=steps).foreground for steps in (0, 1, 2)]
    for steps, foreground in enumerate(found):
        maps = scale_min_max(refine_class_maps(output, fused, num_steps=steps)) * LABELS[:, :, None, None]
        assert torch.equal(foreground.any(1), maps.amax(1) > 0.5)
    assert not torch.equal(found[1], found[2])


def test_affinity_steps_of_the_seed_term_reach_the_loss() -> None:
    output = make_network()(make_images())
    losses = [
        compute_loss(output, LABELS, Variant.PLUS, seed_term=TERM._replace(affinity_steps=steps)).seed_loss
        for steps in (1, 2)
    ]
    assert losses[0] != losses[1]


def test_mirrored_image_gives_mirrored_seeds_where_positions_do_not_matter() -> None:
    network = make_network()
    torch.nn.init.zeros_(network.pos_embed_pat)
    images, kernel = make_images(), network.patch_embed.proj.weight
    # A network that is symmetric within a patch and among its neighbours.
    kernel.data = (kernel + kernel.flip(-1)) / 2
    network.head.weight.data = (network.head.weight + network.head.weight.flip(-1)) / 2
    seeds, mirrored = (find_seeds(network(pixels)) for pixels in (images, images.flip(-1)))
    assert torch.equal(seeds.foreground, mirrored.foreground.flip(-1))
    assert torch.equal(seeds.absent, mirrored.absent.flip(-1))


def test_loss_is_zero_where_the_patch_cam_repeats_the_seeds_and_ignores_all_other_patches() -> None:
    foreground = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    foreground[0, 0, 0, 0] = True
    absent = torch.tensor([[[False, True], [False, False]]]).expand(1, 2, 2, 2)
    seeds = Seeds(foreground=foreground, absent=absent, trust=torch.tensor([[1.0, 0.0]]))
    labels = torch.tensor([[True, False]])
    cam = torch.full((1, 2, 2, 2), -20.0)
    cam[0, 0, 0, 0] = 20.0
    assert compute_seed_losses(cam, seeds, labels).item() == pytest.approx(0, abs=1e-6)
    elsewhere = cam.clone()
    elsewhere[0, 0, 1] = 20.0
    elsewhere[0, 1] = 20.0
    assert compute_seed_losses(elsewhere, seeds, labels).item() == pytest.approx(0, abs=1e-6)
    assert compute_seed_losses(-cam, seeds, labels).item() == pytest.approx(20, abs=1e-3)


def test_small_and_large_regions_have_equal_weight() -> None:
    labels, cam = torch.tensor([[True]]), torch.zeros(1, 1, 4, 4)
    for num_foreground in (1, 8, 15):
        foreground = (torch.arange(16) < num_foreground).view(1, 1, 4, 4)
        seeds = Seeds(foreground=foreground, absent=~foreground, trust=torch.ones(1, 1))
        cam.requires_grad_()
        (gradient,) = torch.autograd.grad(compute_seed_losses(cam, seeds, labels).sum(), cam)
        assert float(gradient.sum()) == pytest.approx(0, abs=1e-6)


def test_class_without_a_foreground_patch_has_no_gradient() -> None:
    foreground = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    foreground[0, 0, :2] = True
    seeds = Seeds(foreground=foreground, absent=~foreground, trust=torch.ones(1, 2))
    cam = torch.zeros(1, 2, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(compute_seed_losses(cam, seeds, torch.tensor([[True, True]])).sum(), cam)
    assert gradient[0, 0].abs().min() > 0
    assert gradient[0, 1].abs().max() == 0


def test_total_loss_contains_the_seed_loss_once_its_weight_is_above_zero() -> None:
    output = make_network()(make_images())
    plain = compute_loss(output, LABELS, Variant.PLUS)
    waiting = compute_loss(output, LABELS, Variant.PLUS, seed_term=TERM._replace(weight=0.0))
    taught = compute_loss(output, LABELS, Variant.PLUS, seed_term=TERM)
    assert plain.seed_loss is None
    assert waiting.seed_loss == 0
    assert waiting.total == plain.total
    assert taught.seed_loss > 0
    torch.testing.assert_close(taught.total, plain.total + 0.5 * taught.seed_loss)


def test_seeds_of_another_network_send_it_no_gradient() -> None:
    network, teacher, images = make_network(), make_network(), make_images()
    torch.nn.init.normal_(teacher.head.weight, std=0.3)
    output, source = network(images), teacher(images)
    loss = compute_loss(output, LABELS, Variant.PLUS, seed_term=TERM, seed_source=source).seed_loss
    torch.testing.assert_close(
        loss, compute_seed_losses(output.patch_cam, find_seeds(source), LABELS).mean(), rtol=1e-6, atol=0
    )
    assert loss != compute_loss(output, LABELS, Variant.PLUS, seed_term=TERM).seed_loss
    loss.backward()
    assert network.head.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_images_without_weight_have_no_effect_on_the_seed_loss() -> None:
    network, images = make_network(), make_images()
    both = compute_loss(network(images), LABELS, Variant.PLUS, seed_term=TERM, sample_weights=torch.tensor([1, 0, 0.0]))
    alone = compute_loss(network(images[:1]), LABELS[:1], Variant.PLUS, seed_term=TERM)
    torch.testing.assert_close(both.seed_loss, alone.seed_loss)


def test_patch_cam_repeats_the_class_maps_after_training() -> None:
    network, images, labels = make_network(), make_images(), LABELS
    seeds = find_seeds(network(images))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = compute_seed_losses(network(images).patch_cam, seeds, labels).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_seeds_without_patch_head_are_refused() -> None:
    config = MCTformerConfig(variant=Variant.V1, num_classes=3, image_size=64, width=24, depth=2, num_heads=2)
    with pytest.raises(ValueError, match="need a patch head"):
        find_seeds(MCTformer(config)(make_images()))


def test_attention_loss_is_zero_for_equal_attention_to_the_seed_and_grows_with_attention_elsewhere() -> None:
    foreground = torch.tensor([[[[True, True], [False, False]]]])
    # What is unsure is no place for attention either.
    absent = torch.tensor([[[[False, False], [True, False]]]])
    seeds = Seeds(foreground=foreground, absent=absent, trust=torch.ones(1, 1))
    labels = torch.tensor([[True]])

    def measure(attention: Any) -> Any:
        return compute_attention_losses(torch.tensor(attention).view(1, 1, 2, 2), seeds, labels).item()

    assert measure([0.3, 0.3, 0.0, 0.0]) == pytest.approx(0, abs=1e-6)
    # Half of the attention elsewhere doubles what an even share would be.
    assert measure([0.25, 0.25, 0.25, 0.25]) == pytest.approx(0.6931, abs=1e-3)
    assert measure([0.5, 0.1, 0.0, 0.0]) > 0.1
    assert measure([0.25, 0.25, 0.5, 0.0]) == pytest.approx(measure([0.25, 0.25, 0.0, 0.5]))


def test_attention_share_adds_to_the_seed_loss_and_reaches_the_class_tokens() -> None:
    network, images = make_network(), make_images()
    cam_only = compute_loss(network(images), LABELS, Variant.PLUS, seed_term=TERM)
    both = compute_loss(network(images), LABELS, Variant.PLUS, seed_term=TERM._replace(attention_share=0.2))
    assert both.seed_loss > cam_only.seed_loss
    (of_cam,) = torch.autograd.grad(cam_only.seed_loss, network.cls_token, retain_graph=True)
    (of_both,) = torch.autograd.grad(both.seed_loss, network.cls_token)
    assert (of_both - of_cam).abs().max() > 0
