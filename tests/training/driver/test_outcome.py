from pathlib import Path

import torch

from pipeline.training.data.survey import Survey
from pipeline.training.driver.outcome import describe_provenance, describe_rule
from tests.training.driver.test_log import make_epoch
from tests.training.driver.test_run import open_at


def test_provenance_names_data_and_libraries(tmp_path: Path) -> None:
    run = open_at(tmp_path)
    provenance = describe_provenance(run, {"train": Survey(num_samples=3, num_usable=2)})
    assert provenance["data_fingerprint"] == run.data_fingerprint
    assert provenance["run_fingerprint"] == run.fingerprint
    assert provenance["data"] == {"train": {"num_samples": 3, "num_usable": 2}}
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_rule_of_the_best_epoch_is_described_in_words() -> None:
    validated = make_epoch(1)
    both = {**validated, "patch_validation": {"mean_average_precision": 0.5}}
    assert describe_rule([{**validated, "validation": None}]).startswith("the last")
    assert "of class scores on" in describe_rule([validated])
    assert "of class and patch scores on" in describe_rule([validated, both])
