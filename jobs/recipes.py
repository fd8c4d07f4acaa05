"""Complete named training runs. Each function returns a whole configuration; the command line may override fields."""

from collections.abc import Callable

from pipeline.training.config import AugmentConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig

RANK_DECAY_196 = 0.984
"""As 0.996 for 784 patches: the same share of the patches decides."""


def v1() -> TrainConfig:
    """MCTformer V1 as its authors trained it on PASCAL VOC: DeiT-S, 224 px, 60 epochs, batch 64.

    Source: Xu et al., CVPR 2022, and run.sh and main.py of github.com/xulianuwa/MCTformer at 355a4aa; there the
    learning rate changes once an epoch, here at every step.
    """
    return TrainConfig(model=ModelConfig(variant="v1", backbone="deit_small_patch16_224"))


def v2() -> TrainConfig:
    """MCTformer V2 as its authors trained it on PASCAL VOC: as v1, with the patch head and its loss.

    Source: as v1. The paper reports 61.7 % mIoU for its refined maps on VOC train, with views of several scales.
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


def seeded() -> TrainConfig:
    """Ours: MCTformer+ at 224 px whose patch CAM also learns from its own refined class maps, a few epochs long.

    Against plus: the seed loss (`models.seed_loss`), of maps that the averaged network makes and that are spread twice;
    the patch CAM and the attention of the class tokens learn from it. Class tokens start apart and learn 60 times as
    fast as the backbone, for copies of one token under one small rate hardly part; the patch head, which starts from
    random weights, learns 20 times as fast, for seeds are as good as what it knows when they begin to teach. A ranking
    decay that fits 196 patches; a higher rate for a shorter run, and milder crops without RandAugment.
    docs/measurements.md has the scores, from ViT-Tiny on six classes of PASCAL VOC; longer runs, DeiT-S and 20 classes
    have not been measured.
    """
    return TrainConfig(
        model=ModelConfig(
            variant="plus", backbone="deit_small_patch16_224", rank_decay=RANK_DECAY_196, token_spread=1.0
        ),
        augment=AugmentConfig(min_crop_fraction=0.25, rand_augment="", color_jitter=0.2, random_erasing=0.0),
        loss=LossConfig(
            seed_weight=0.5,
            seed_from_average=True,
            seed_attention_share=0.2,
            seed_affinity_steps=2,
            seed_background_threshold=0.4,
            seed_foreground_threshold=0.6,
        ),
        optimizer=OptimizerConfig(
            epochs=10,
            base_lr=1.2e-3,
            warmup_epochs=0.5,
            clip_norm=1.0,
            token_lr_factor=60.0,
            head_lr_factor=20.0,
            ema_decay=0.98,
        ),
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


RECIPES: dict[str, Callable[[], TrainConfig]] = {"v1": v1, "v2": v2, "plus": plus, "seeded": seeded, "demo": demo}
"""What `--recipe` chooses from."""
