"""All cases of `benchmarks.gpu`, the most important first: what no longer fits into the time is at the end."""

from benchmarks.gpu_parts import device_use, forward, labelling, parity, pixel_refinement, training
from benchmarks.gpu_parts.report import Case


def list_cases(is_small: bool) -> list[Case]:
    """List all cases.

    Args:
        is_small: A few small ones, which try all parts.
    """
    return [
        *labelling.list_worker_cases(is_small),
        *device_use.list_cases(is_small),
        *parity.list_cases(is_small),
        *labelling.list_memory_cases(is_small),
        *training.list_cases(is_small, is_compiled=False),
        *forward.list_compilation_cases(is_small),
        *forward.list_cases(is_small),
        *pixel_refinement.list_cases(is_small),
        *labelling.list_model_cases(is_small),
        *training.list_cases(is_small, is_compiled=True),
    ]
