"""`--quality` of jobs.label gives the defaults of the other options."""

from typing import Any

import pytest

from jobs.label import parse_command
from jobs.qualities import BEST_SCALES, QUALITIES, balanced, best
from pipeline.run.config import MIN_PATCHES, LabelConfig, ViewConfig, settle_config

REQUIRED = ("--shards", "a.tar", "--vocabulary", "v.json", "--model", "model", "--out", "out")


@pytest.mark.parametrize("quality", QUALITIES)
def test_quality_gives_a_whole_configuration(quality: Any) -> None:
    assert parse_command([*REQUIRED, f"--quality={quality}"]).config == QUALITIES[quality]()


def test_options_override_what_the_quality_says() -> None:
    config = parse_command([*REQUIRED, "--quality", "best", "--views.no-flip"]).config
    assert config.views == ViewConfig(scales=BEST_SCALES, flip=False)
    assert config.maps == best().maps


def test_quality_is_balanced_unless_said() -> None:
    assert parse_command(REQUIRED).config == balanced()


def test_unknown_quality_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command([*REQUIRED, "--quality", "superb"])
    assert "fast" in capsys.readouterr().err


def test_token_budget_is_that_of_the_training_or_enough_for_a_photo_unless_said() -> None:
    assert settle_config(LabelConfig(), grid_side=28).views.num_patches == 784
    assert settle_config(LabelConfig(), grid_side=10).views.num_patches == MIN_PATCHES
    chosen = LabelConfig(views=ViewConfig(num_patches=50))
    assert settle_config(chosen, grid_side=14) == chosen
