"""Errors of the stores' clients as ours: code, status and message of the response.

Clients wrap one exception in another, and some stores (Ceph RGW among them) respond with a code and no message, which
clients write as `None`. So the whole chain of causes is searched.
"""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp

from pipeline.errors import BucketError, PathError, StorageError, UriError

NO_MESSAGE = re.compile(r"(^|.*\] |.*: )None$", re.DOTALL)
"""Text of an exception that was made from a missing message."""
NOT_FOUND = frozenset({404, 410})
"""HTTP status codes of a missing file."""
MISSING_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "FilesystemNotFound"})
"""Error codes of S3 and Azure for a missing bucket or container."""
AZURE_SCHEMES = frozenset({"az", "abfs", "abfss", "adl"})
HUB_PLACE = re.compile(
    r"((?:datasets|spaces|models|kernels|buckets)/)?([^/@]*(?:/[^/@]*)?)(?:@((?:refs/(?:convert|pr)/)?[^/]*))?"
)
"""Kind, repository and revision in a URI of the Hugging Face hub. Without a kind it names a model."""
LOG_IN = "set HF_TOKEN or log in by 'hf auth login'"
LOCAL_ADVICE = {
    errno.EACCES: "give this user the permission",
    errno.EPERM: "give this user the permission",
    errno.EEXIST: "it is a file or a broken link, so name a folder",
    errno.EISDIR: "it is a folder, so name a file",
    errno.ENOTDIR: "check the path",
    errno.ENAMETOOLONG: "check the path",
    errno.ELOOP: "check where its links lead",
}
"""What to do about an error of a local path that does not pass by itself."""


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
        text = " ".join(str(cause).split())
        if text and not NO_MESSAGE.match(text):
            return text
    return type(error).__name__


def _is_bucket_missing(error: BaseException) -> bool:
    """Check whether a store responded that the bucket or container does not exist, anywhere in the chain of causes."""
    for cause in list_causes(error):
        if {_get_response_field(cause, "Error", "Code"), getattr(cause, "error_code", None)} & MISSING_BUCKET:
            return True
    return False


def describe_missing_bucket(uri: str) -> str:
    """Sentence about the missing bucket of a URI, which Azure calls a container.

    >>> describe_missing_bucket("abfs://photos@account.dfs.core.windows.net/a.tar").partition(" of ")[0]
    "container 'photos'"
    """
    scheme, _, rest = uri.partition("://")
    name = rest.partition("/")[0].partition("@")[0]
    kind = "container" if scheme.rpartition("::")[2].lower() in AZURE_SCHEMES else "bucket"
    return f"{kind} '{name}' of '{uri}' does not exist; create it, or correct its name or the endpoint"


def _describe_hub_failure(uri: str, error: BaseException) -> str | None:
    """Sentence about a repository of the Hugging Face hub that is not open; None for any other failure.

    The exceptions are known by their names, as the client need not be installed.
    """
    place = HUB_PLACE.match(uri.partition("://")[2])
    names = {type(cause).__name__ for cause in list_causes(error)}
    if place is None:
        return None
    kind, repository, revision = place.groups(default="")
    if "OfflineModeIsEnabled" in names:
        return f"'{uri}' is on the Hugging Face hub, and its client is told to stay offline; unset HF_HUB_OFFLINE"
    if any(type(cause).__name__ == "HfHubHTTPError" and _find_status(cause) == 401 for cause in list_causes(error)):
        return f"the Hugging Face hub refuses the token for '{uri}'; correct HF_TOKEN, or log in by 'hf auth login'"
    if "RevisionNotFoundError" in names:
        return f"revision '{revision}' of '{uri}' does not exist; correct what stands after the @"
    if "GatedRepoError" in names:
        return f"repository '{kind}{repository}' of '{uri}' is gated; ask for access on its page, then {LOG_IN}"
    if names & {"RepositoryNotFoundError", "BucketNotFoundError", "DisabledRepoError"}:
        dataset = "" if kind else f"; a dataset is 'hf://datasets/{repository}'"
        return (
            f"repository '{kind}{repository}' of '{uri}' does not exist, or is private; correct its name, or "
            f"{LOG_IN}{dataset}"
        )
    return None


def list_causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and its chain of causes, each once."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _find_status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


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
        BucketError: The bucket, or the repository or its revision, does not exist or is not open to this user.
        UriError: The client takes the URI for invalid.
        StorageError: Any other failure except a missing or existing file, which is raised as it is.
    """
    try:
        yield
    except Exception as error:  # each client has its own exceptions, and not all of them are an OSError
        if _is_bucket_missing(error):
            raise BucketError(describe_missing_bucket(uri)) from error
        if (refusal := _describe_hub_failure(uri, error)) is not None:
            raise BucketError(refusal) from error
        if any(isinstance(cause, aiohttp.InvalidURL) for cause in list_causes(error)):
            raise UriError(f"'{uri}' is no valid address; check its host and port") from error
        if isinstance(error, FileNotFoundError) and (cause := _find_web_failure(error)) is not None:
            raise StorageError(
                f"'{uri}' cannot be reached: {describe_store_failure(cause)}; check the address, the server, and "
                "whether it asks for a login"
            ) from cause
        if isinstance(error, FileNotFoundError | FileExistsError):
            raise
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            raise UriError(f"'{uri}' is refused: {describe_store_failure(error)}; check the URI") from error
        raise StorageError(
            f"'{uri}' cannot be reached: {describe_store_failure(error)}; check network, endpoint and credentials"
        ) from error


def _find_web_failure(error: BaseException) -> BaseException | None:
    """Find why a web client calls a file missing if the server did not say so: no connection, or no permission."""
    for cause in list_causes(error):
        if isinstance(cause, aiohttp.ClientError | TimeoutError):
            return None if getattr(cause, "status", None) in NOT_FOUND else cause
    return None


@contextmanager
def translate_local_errors(path: object, act: str = "read") -> Iterator[None]:
    """Turn an error of a local path that waiting does not end into one that contains the path and what to do.

    Raises:
        PathError: No permission, a folder in place of a file, or a path that is too long or leads nowhere.
    """
    try:
        yield
    except OSError as error:
        advice = LOCAL_ADVICE.get(error.errno or 0)
        if advice is None or isinstance(error, StorageError):
            raise
        raise PathError(f"'{error.filename or path}' cannot be {act}: {error.strerror}; {advice}") from error
