import pytest

from pipeline.training.driver.recorder import describe_failure
from pipeline.training.events import NonFiniteLoss


@pytest.mark.parametrize(("is_gradient", "what"), [(False, "the loss"), (True, "the gradient of the loss")])
def test_failure_names_what_is_not_finite_and_the_first_images(is_gradient: bool, what: str) -> None:
    keys = tuple(f"photo{n}" for n in range(10))
    message = describe_failure(NonFiniteLoss(epoch=2, step=3, keys=keys, is_gradient=is_gradient))
    assert message.startswith(f"{what} is not finite in epoch 2, step 3; images of the batch: 'photo0', 'photo1'")
    assert "'photo7' and 2 more" in message
