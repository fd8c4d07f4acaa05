"""Errors of the stores' clients as ours: code, status and message of the response.

Clients wrap one exception in another, and some stores (Ceph RGW among them) respond with a code and no message, which
clients write as `None`. So the whole chain of causes is searched.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.errors import BucketError, StorageError

NO_MESSAGE = re.compile(r"(^|.*\] |.*: )None$", re.DOTALL)
"""Text of an exception that was made from a missing message."""


def describe_store_failure(error: BaseException) -> str:
    """Reason why a request to a store failed: its response, or the first exception with a text; never empty.

    >>> describe_store_failure(OSError(5, "Input/output error")), describe_store_failure(PermissionError(None))
    ('[Errno 5] Input/output error', 'PermissionError')
    """
    for cause in list_causes(error):
        answer = _describe_answer(cause)
        if answer is not None:
            return answer
    for cause in list_causes(error):
        text = str(cause).strip()
        if text and not NO_MESSAGE.match(text):
            return text
    return type(error).__name__


def is_bucket_missing(error: BaseException) -> bool:
    """Check whether a store responded that the bucket does not exist, anywhere in the chain of causes."""
    return any(_get_response_field(cause, "Error", "Code") == "NoSuchBucket" for cause in list_causes(error))


def list_causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and its chain of causes, each once."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _describe_answer(error: BaseException) -> str | None:
    """Response of S3 in an exception of botocore, as text; None if there is none."""
    code, status = (
        _get_response_field(error, "Error", "Code"),
        _get_response_field(error, "ResponseMetadata", "HTTPStatusCode"),
    )
    if code is None:
        return None
    name = f"HTTP {code}" if str(code).isdigit() else f"{code} (HTTP {status})" if status else str(code)
    message = _get_response_field(error, "Error", "Message")
    return f"{name}: {message}" if message else name


def _get_response_field(error: BaseException, part: str, name: str) -> Any:
    response = getattr(error, "response", None)
    inner = response.get(part) if isinstance(response, Mapping) else None
    return inner.get(name) if isinstance(inner, Mapping) else None


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turn the exceptions of a store's client into ours, which contain the URI.

    Raises:
        BucketError: The bucket does not exist.
        StorageError: Any other failure except a missing or existing file, which is raised as it is.
    """
    try:
        yield
    except Exception as error:  # each client has its own exceptions, and not all of them are an OSError
        if is_bucket_missing(error):
            bucket = uri.partition("://")[2].partition("/")[0]
            raise BucketError(
                f"bucket '{bucket}' of '{uri}' does not exist; create it, or correct its name or the endpoint"
            ) from error
        if isinstance(error, FileNotFoundError | FileExistsError):
            raise
        raise StorageError(
            f"'{uri}' cannot be reached: {describe_store_failure(error)}; check network, endpoint and credentials"
        ) from error
