"""What the clients of stores raise, in words: the code of the answer, its status, its message.

Clients wrap one exception in another, and some stores (Ceph RGW among them) answer with a code and no message, which
clients write as `None`. So the whole chain of causes is read.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

NO_MESSAGE = re.compile(r"(^|.*\] |.*: )None$", re.DOTALL)
"""What an exception says that was made of a message that is not there."""


def describe_failure(error: BaseException) -> str:
    """Say why a store did not do what it was asked; never empty.

    >>> describe_failure(OSError(5, "Input/output error")), describe_failure(PermissionError(None))
    ('[Errno 5] Input/output error', 'PermissionError')
    """
    for cause in list_causes(error):
        answer = _get_answer(cause)
        if answer is not None:
            return answer
    for cause in list_causes(error):
        text = str(cause).strip()
        if text and not NO_MESSAGE.match(text):
            return text
    return type(error).__name__


def is_bucket_missing(error: BaseException) -> bool:
    """Tell whether a store answered that there is no such bucket, whatever its client made of the answer."""
    return any(_get_field(cause, "Error", "Code") == "NoSuchBucket" for cause in list_causes(error))


def list_causes(error: BaseException) -> Iterator[BaseException]:
    """List an exception and those that led to it, each once."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _get_answer(error: BaseException) -> str | None:
    """Describe the answer of S3 that botocore's exceptions carry; None when there is none."""
    code, status = _get_field(error, "Error", "Code"), _get_field(error, "ResponseMetadata", "HTTPStatusCode")
    if code is None:
        return None
    name = f"HTTP {code}" if str(code).isdigit() else f"{code} (HTTP {status})" if status else str(code)
    message = _get_field(error, "Error", "Message")
    return f"{name}: {message}" if message else name


def _get_field(error: BaseException, part: str, name: str) -> Any:
    response = getattr(error, "response", None)
    inner = response.get(part) if isinstance(response, Mapping) else None
    return inner.get(name) if isinstance(inner, Mapping) else None
