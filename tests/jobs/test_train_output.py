"""What jobs.train prints."""

from collections import Counter
from typing import Any

import pytest

from jobs.display.training import EventPrinter, print_surveys
from pipeline.training.data.survey import Survey
from pipeline.training.events import Resumed, compute_score
from tests.training.driver.test_log import make_epoch, make_step


def make_survey(images_per_class: Any, **counts: Any) -> Any:
    return Survey(num_samples=9, num_usable=9, images_per_class=Counter(images_per_class), **counts)


def test_classes_without_an_image_are_named_for_each_split(capsys: pytest.CaptureFixture[str]) -> None:
    print_surveys({"train": make_survey({1: 9}), "validation": make_survey({2: 9})}, ("cat", "dog"))
    errors = capsys.readouterr().err
    assert "warning: no train image shows dog: it will not be learned" in errors
    assert "warning: no validation image shows cat: it has no average precision" in errors


def test_validation_images_among_the_training_images_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    train = make_survey({1: 9}, num_shared=2, shared_keys=("a", "b"))
    print_surveys({"train": train, "validation": make_survey({1: 9})}, ("cat",))
    assert "2 training images have the key of a validation image ('a', 'b' ..)" in capsys.readouterr().err


def test_run_without_validation_has_nothing_to_warn_of(capsys: pytest.CaptureFixture[str]) -> None:
    print_surveys({"train": make_survey({1: 9}), "validation": Survey()}, ("cat",))
    assert capsys.readouterr().err == ""


def test_epochs_are_rows_of_a_table_with_losses_speed_and_average_precision(capsys: pytest.CaptureFixture[str]) -> None:
    printer = EventPrinter(2, ("cat", "<dog>"))
    printer(make_step(1, 4))
    printer(make_epoch(1))
    printer(Resumed(epoch=2, step=3, num_workers=1, was_resharded=True, position=1.5, records=()))
    printer(make_epoch(2, mean=0.6))
    heading, first, classes, resumed, second, _ = capsys.readouterr().out.splitlines()
    names = [name.strip() for name in heading.split("  ") if name.strip()]
    assert names == ["epoch", "loss", "class", "lr", "gradient", *names[5:]]
    assert names[5:] == ["images/s", "waiting", "dropped", "val loss", "mAP", "left"]
    assert first.split()[:10] == ["1/2", "1.0000", "1.0000", "1.00e-03", "2", "10.0", "2%", "3", "0.7000", "50.0"]
    assert second.split()[0] == "2/2"
    assert len(heading) == len(first) == len(second)
    assert "cat 25.0  <dog> 75.0" in classes
    assert "going on in epoch 2 after 3 steps, 1 workers; the rest of the epoch is resharded" in resumed


def test_table_has_dashes_where_no_validation_image_shows_any_class(capsys: pytest.CaptureFixture[str]) -> None:
    empty = {"mean_average_precision": None, "average_precision": {}, "losses": {"total": 0.5}}
    EventPrinter(1, ("cat",))({**make_epoch(1), "validation": empty})
    printed = capsys.readouterr().out
    assert " 0.5000         - " in printed
    assert "no validation image shows any class" in printed
    assert "nan" not in printed


def test_epochs_are_ranked_by_validation_and_without_it_by_age() -> None:
    validation, patches = {"mean_average_precision": 0.5}, {"mean_average_precision": 0.9}
    assert compute_score(validation, patches, 3) == 0.7
    assert compute_score(validation, None, 3) == 0.5
    assert (
        compute_score(None, None, 3)
        < compute_score(None, None, 4)
        < compute_score({"mean_average_precision": 0.0}, None, 1)
    )
