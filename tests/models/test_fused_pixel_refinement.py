"""Pixel refinement on GPUs: the kernels without a GPU, and what happens where they cannot run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from models.pixel_refinement import choose_block, choose_form, refine_plainly

ROOT = Path(__file__).parents[2]
NO_GPU = torch.device("cuda", 63)
"""A GPU that no machine has."""
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; run `pip install triton` on Linux, then `pytest` on this file",
)
COMPARISON = """
import torch
from models.fused_pixel_refinement import refine_fused
from models.pixel_refinement import refine_plainly

rng = torch.Generator().manual_seed(0)
cases = [(1, 1, 1, 1, 1, (16, 32)), (2, 3, 5, 7, 2, (16, 32)), (1, 9, 3, 70, 1, (8, 128)), (1, 2, 40, 33, 2, (64, 64))]
for b, k, h, w, num_rounds, tile_size in cases:
    maps, image = torch.rand(b, k, h, w, generator=rng), torch.rand(b, h, w, 3, generator=rng).permute(0, 3, 1, 2)
    # Some columns have few colours, some one colour with rare exceptions, whose differences are large.
    image[..., : w // 3] = image[..., : w // 3].round(decimals=1)
    image[..., w // 2 :] = (image[..., w // 2 :] > 0.99).float()
    expected = refine_plainly(maps, image, num_rounds)
    refined = refine_fused(maps, image, num_rounds, tile_size=tile_size)
    torch.testing.assert_close(refined, expected, rtol=0, atol=3e-6)
assert torch.equal(refine_fused(maps, image, 0), maps)
"""
COUNTING = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor
from models.fused_pixel_refinement import refine_fused

launched = []
GridExecutor.__call__ = lambda self, *args, **kwargs: launched.append(self.fn.__name__)

class Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        launched.extend([] if "empty" in str(function) else [str(function)])
        return function(*args, **(kwargs or {}))

for b, k, side in [(1, 1, 16), (64, 3, 224), (2, 20, 224)]:
    launched.clear()
    image = torch.rand(b, side, side, 3).permute(0, 3, 1, 2)
    maps = torch.rand(b, k, side, side)
    with Operations():
        refine_fused(maps, image, 10)
    assert launched == ["compute_scale"] + ["average_neighbours"] * 10, launched
"""
COMPILATION = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models import fused_pixel_refinement as fused

# Arguments that are 1 are constants to the compiler. One map of a photo is the usual case.
cases = [(75, {}), *((90, {"NUM_MAPS": block}) for block in (2, 4, 8))]
cases += [(90, {"NUM_MAPS": 1, "num_maps": 1, "channel_stride": 1}), (90, {"height": 1, "width": 1})]
for capability, values in cases:
    constants = {"TILE_HEIGHT": fused.TILE_SIZE[0], "TILE_WIDTH": fused.TILE_SIZE[1], "NUM_MAPS": 2, **values}
    for kernel in (fused.compute_scale, fused.average_neighbours):
        names = kernel.arg_names
        chosen = {name: constants[name] for name in names if name in constants}
        kinds = {name: "*fp32" if name in ("maps", "image", "scale", "mixed") else "i32" for name in names}
        source = ASTSource(kernel, kinds | dict.fromkeys(chosen, "constexpr"), constexprs=chosen)
        made = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": fused.NUM_WARPS})
        assert made.asm["cubin"], kernel
        # Memory that the threads of a program share: some versions of Triton pass weights through it.
        assert made.metadata.shared <= 4096, kernel
"""


def run_program(program: str, folder: Path, **variables: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(folder), **variables}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


@needs_triton
def test_kernels_refine_as_the_plain_form_at_sizes_below_and_above_their_reach(tmp_path: Path) -> None:
    """In Triton's interpreter, which needs no GPU."""
    run_program(COMPARISON, tmp_path, TRITON_INTERPRET="1")


@needs_triton
def test_a_batch_of_any_size_takes_one_launch_and_one_for_each_round(tmp_path: Path) -> None:
    run_program(COUNTING, tmp_path, TRITON_INTERPRET="1")


@needs_triton
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """The interpreter accepts more than the compiler does."""
    run_program(COMPILATION, tmp_path, TRITON_INTERPRET="0")


def test_cpu_uses_the_plain_form_without_a_warning(caplog: Any) -> None:
    choose_form.cache_clear()
    assert choose_form(torch.device("cpu"), 1) is refine_plainly
    assert not caplog.records


def test_missing_triton_is_logged_once_and_the_plain_form_used(monkeypatch: Any, caplog: Any) -> None:
    # Python refuses to import a module that is None.
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "models.fused_pixel_refinement", raising=False)
    choose_form.cache_clear()
    forms = [choose_form(torch.device("cuda", 0), 2) for _ in range(3)]
    choose_form.cache_clear()
    assert forms == [refine_plainly] * 3
    assert len(caplog.records) == 1


def test_device_on_which_kernels_fail_is_logged_once_a_size_in_one_line_and_the_plain_form_used(caplog: Any) -> None:
    choose_form.cache_clear()
    assert [choose_form(NO_GPU, block) for block in (1, 2, 1, 2)] == [refine_plainly] * 4
    assert [record.getMessage().count("\n") for record in caplog.records] == [0, 0]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), RuntimeError("Triton Error [CUDA]: out of memory")],
    ids=["torch", "triton"],
)
def test_full_memory_in_the_trial_is_raised_and_the_kernels_are_tried_again(
    error: Exception, monkeypatch: Any, caplog: Any
) -> None:
    class FullModule(ModuleType):
        num_tries = 0

        def __getattr__(self, name: str) -> Any:
            if name != "refine_fused":
                raise AttributeError(name)
            FullModule.num_tries += 1
            raise error

    monkeypatch.setitem(sys.modules, "models.fused_pixel_refinement", FullModule("full"))
    choose_form.cache_clear()
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError, match="no memory to try fused kernels"):
            choose_form(torch.device("cuda", 0), 2)
    assert FullModule.num_tries == 2
    assert not caplog.records


def test_block_holds_all_maps_of_few_and_is_a_power_of_two() -> None:
    assert [choose_block(number) for number in (0, 1, 2, 3, 4, 5, 8, 9, 200)] == [1, 1, 2, 4, 4, 8, 8, 8, 8]
