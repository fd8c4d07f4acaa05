from pipeline.training.config import WorkerConfig
from pipeline.training.driver.resources import find_shortage


def test_workers_that_leave_no_slot_for_images_are_a_shortage() -> None:
    assert find_shortage(WorkerConfig(num_workers=2), 4.0, 0.0) is None
    shortage = find_shortage(WorkerConfig(num_workers=4), 4.0, 0.0)
    assert "the cluster has 4 CPU slots: 4 workers would leave none" in (shortage or "")


def test_range_of_workers_is_judged_by_those_that_would_start() -> None:
    on_gpus = WorkerConfig(min_workers=1, num_workers=8, gpus_per_worker=1.0)
    assert find_shortage(on_gpus, 4.0, 1.0) is None
    assert "4 CPU slots: 4 workers would leave none" in (find_shortage(on_gpus, 4.0, 8.0) or "")
    # On CPUs the range takes all the slots that there are.
    on_cpus = WorkerConfig(min_workers=1, num_workers=8)
    assert "4 CPU slots: 4 workers would leave none" in (find_shortage(on_cpus, 4.0, 0.0) or "")
    assert find_shortage(on_cpus, 10.0, 0.0) is None
    assert "1 CPU slots: 2 workers would leave none" in (find_shortage(WorkerConfig(num_workers=2), 1.0, 0.0) or "")


def test_too_few_gpus_for_the_least_number_of_workers_are_a_shortage() -> None:
    shortage = find_shortage(WorkerConfig(min_workers=2, num_workers=8, gpus_per_worker=1.0), 64.0, 1.0)
    assert "the cluster has 1 GPUs and 2 workers of 1 each need 2" in (shortage or "")
    assert "the cluster has 0 GPUs and 1 worker of 0.5 each" in (
        find_shortage(WorkerConfig(gpus_per_worker=0.5), 64.0, 0.0) or ""
    )
