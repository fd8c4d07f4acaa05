"""Schedulers that rest: only those of the context that asks for it."""

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.training.data.scheduler_pace import RestBetweenSteps, pace_scheduler


def test_paced_context_limits_its_executions_and_leaves_its_origin_unchanged() -> None:
    origin = DataContext.get_current()
    before = list(origin.custom_execution_callback_classes)
    context = origin.copy()
    pace_scheduler(context)
    assert RestBetweenSteps in context.execution_callback_classes
    assert RestBetweenSteps not in origin.execution_callback_classes
    assert origin.custom_execution_callback_classes == before


def test_callbacks_that_a_context_had_stay_and_their_list_is_not_written_to() -> None:
    context = DataContext.get_current().copy()
    callbacks = [ExecutionCallback]
    context.custom_execution_callback_classes = callbacks
    pace_scheduler(context)
    assert context.custom_execution_callback_classes == [ExecutionCallback, RestBetweenSteps]
    assert callbacks == [ExecutionCallback]
