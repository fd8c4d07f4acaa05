"""Complete named training runs. Each function returns a whole configuration; the command line may override fields."""

from collections.abc import Callable

from pipeline.training_config import AugmentConfig, ModelConfig, OptimizerConfig, TrainConfig


def v1() -> TrainConfig:
    """MCTformer V1 as its authors trained it on PASCAL VOC: DeiT-S, 224 px, 60 epochs, batch 64.

    Source: Xu et al., CVPR 2022, and run.sh and main.py of github.com/xulianuwa/MCTformer at 355a4aa; there the
    learning rate changes once an epoch, here at every step.
    """
    return TrainConfig(model=ModelConfig(variant="v1", backbone="deit_small_patch16_224"))


def v2() -> TrainConfig:
    """MCTformer V2 as its authors trained it on PASCAL VOC: as v1, with the patch head and its loss.

    Source: as v1. The paper gives 61.7 % mIoU for its refined maps on VOC train, with views of several scales.
    """
    return TrainConfig(model=ModelConfig(variant="v2", backbone="deit_small_patch16_224"))


def plus() -> TrainConfig:
    """MCTformer+ as its authors trained it on PASCAL VOC: DeiT-S, 448 px, 45 epochs, batch 32, contrast on 12 layers.

    Source: Xu et al., TPAMI 2024, and the same repository at 0acc27a.
    """
    return TrainConfig(
        model=ModelConfig(variant="plus", backbone="deit_small_patch16_224", image_size=448),
        optimizer=OptimizerConfig(epochs=45, batch_size=32),
    )


def demo() -> TrainConfig:
    """A small MCTformer+ from random weights for the made-up pictures of `make demo`: minutes on two CPU cores.

    Pooling by rank with a decay that fits 144 patches is what makes it localise so early: average pooling (V2)
    rewards patches for repeating what the whole image holds.
    """
    return TrainConfig(
        model=ModelConfig(
            variant="plus",
            image_size=96,
            patch_size=8,
            width=96,
            depth=3,
            num_heads=3,
            mlp_ratio=3.0,
            rank_decay=0.93,
            drop_path=0.0,
        ),
        augment=AugmentConfig(min_crop_fraction=0.3, color_jitter=0.2, rand_augment="", random_erasing=0.0),
        optimizer=OptimizerConfig(
            epochs=8, batch_size=32, base_lr=0.024, warmup_epochs=1.0, weight_decay=0.02, clip_norm=1.0
        ),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"v1": v1, "v2": v2, "plus": plus, "demo": demo}
"""What `--recipe` chooses from."""
