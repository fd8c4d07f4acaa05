"""Our blocks against timm's, bit for bit: the same names, initial weights, results, gradients and random numbers."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from timm.layers import PatchEmbed as TimmPatchEmbed
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn

from models.attention import attend
from models.vision_transformer import Block, PatchEmbed, fill_normal
from tests.factories import save_small_model

ROOT = Path(__file__).parents[2]
WIDTH, HEADS = 24, 3


def require_equal_states(ours: nn.Module, theirs: nn.Module) -> None:
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("is_training", [True, False])
def test_block_of_a_seed_computes_what_timms_does(is_training: bool) -> None:
    torch.manual_seed(0)
    ours = Block(WIDTH, HEADS, 3.5, drop_path=0.4).train(is_training)
    torch.manual_seed(0)
    theirs = TimmBlock(WIDTH, HEADS, 3.5, qkv_bias=True, drop_path=0.4, norm_layer=partial(nn.LayerNorm, eps=1e-6))  # type: ignore[arg-type]
    theirs.train(is_training)
    require_equal_states(ours, theirs)
    tokens = torch.randn(16, 5, WIDTH)
    torch.manual_seed(1)
    found = ours.add_attended(tokens, attend(ours.attn, ours.norm1(tokens)).tokens)
    torch.manual_seed(1)
    expected = theirs(tokens)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)  # type: ignore[arg-type]


def test_patches_are_those_of_timm_and_a_rest_is_ignored() -> None:
    torch.manual_seed(0)
    ours = PatchEmbed(4, WIDTH)
    torch.manual_seed(0)
    theirs = TimmPatchEmbed(8, 4, 3, WIDTH, strict_img_size=False)
    require_equal_states(ours, theirs)
    images = torch.randn(2, 3, 12, 8)
    assert torch.equal(ours(images).flatten(2).transpose(1, 2), theirs(images))
    assert ours(torch.randn(1, 3, 11, 9)).shape == (1, WIDTH, 2, 2)


def test_random_weights_are_those_of_timm_and_always_finite() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.empty(300, 400), torch.empty(300, 400)
    fill_normal(ours, 0.02)
    torch.manual_seed(0)
    trunc_normal_(theirs, std=0.02)
    assert torch.equal(ours, theirs)

    class Worst(torch.Tensor):
        """A tensor whose random values are the ends of their range."""

        def uniform_(self, low: float, high: float) -> torch.Tensor:  # type: ignore[override]
            self[0], self[1] = low, high
            return self

    ends = torch.zeros(2).as_subclass(Worst)
    fill_normal(ends, 0.5)
    assert ends.tolist() == [-3.0, 3.0]


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="a width that 5 heads share evenly, got 24"):
        Block(WIDTH, 5, 4.0, drop_path=0.0)


def test_labelling_process_imports_neither_timm_nor_ray_nor_the_compiler_of_pytorch(tmp_path: Path) -> None:
    save_small_model(str(tmp_path))
    program = (
        "import sys\n"
        "import pipeline.labelling.label_actor\n"
        "from pipeline.bundles import load_bundle\n"
        f"load_bundle({str(tmp_path)!r})\n"
        "found = {'timm', 'torchvision', 'ray', 'torch._dynamo', 'sympy'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
