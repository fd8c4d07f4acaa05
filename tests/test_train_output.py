"""What jobs.train prints."""

from collections import Counter

from jobs.train_output import EventPrinter, print_surveys
from pipeline.training_events import Resumed, compute_score
from pipeline.training_survey import Survey
from tests.test_training_log import make_epoch, make_step


def make_survey(images_per_class, **counts):
    return Survey(num_samples=9, num_usable=9, images_per_class=Counter(images_per_class), **counts)


def test_classes_without_an_image_are_named_for_each_split(capsys):
    print_surveys({"train": make_survey({1: 9}), "validation": make_survey({2: 9})}, ("cat", "dog"))
    errors = capsys.readouterr().err
    assert "warning: no train image shows dog: it will not be learned" in errors
    assert "warning: no validation image shows cat: it has no average precision" in errors


def test_validation_images_among_the_training_images_are_named(capsys):
    train = make_survey({1: 9}, num_shared=2, shared_keys=("a", "b"))
    print_surveys({"train": train, "validation": make_survey({1: 9})}, ("cat",))
    assert "2 training images have the key of a validation image ('a', 'b' ..)" in capsys.readouterr().err


def test_run_without_validation_has_nothing_to_warn_of(capsys):
    print_surveys({"train": make_survey({1: 9}), "validation": Survey()}, ("cat",))
    assert capsys.readouterr().err == ""


def test_line_of_an_epoch_holds_losses_speed_and_average_precision(capsys):
    printer = EventPrinter(2, ("cat", "<dog>"))
    printer(make_step(1, 4))
    printer(make_epoch(1))
    printer(Resumed(epoch=2, step=3, num_workers=1, is_divided_anew=True, position=1.5, records=()))
    printed = capsys.readouterr().out
    assert "epoch 1/2  loss 1.0000 (class 1.0000)" in printed
    assert "10.0 images/s  waiting 2%" in printed
    assert "validation loss 0.7000  mAP 50.0  cat 25.0  <dog> 75.0" in printed
    assert "going on in epoch 2 after 3 steps, 1 workers; the rest of the epoch is divided anew" in printed


def test_epochs_are_ranked_by_validation_and_without_it_by_age():
    validation, patches = {"mean_average_precision": 0.5}, {"mean_average_precision": 0.9}
    assert compute_score(validation, patches, 3) == 0.7
    assert compute_score(validation, None, 3) == 0.5
    assert (
        compute_score(None, None, 3)
        < compute_score(None, None, 4)
        < compute_score({"mean_average_precision": 0.0}, None, 1)
    )
