"""fsspec file systems: opening them by URI, and the options of S3."""

import difflib
import re
from typing import Any, cast

import fsspec
from fsspec.registry import known_implementations, registry

from pipeline.errors import StorageError, UriError
from pipeline.storage.store_errors import describe_store_failure
from pipeline.storage.uris import list_schemes, normalise_uri, require_no_password

COMMON_SCHEMES = ("file", "s3", "gs", "az", "abfs", "hf", "hdfs", "http", "https", "sftp", "memory")
VERSION = re.compile(r"\?versionId=", re.IGNORECASE)

S3_OPTIONS = {
    # botocore's standard mode retries throttling (503), timeouts and broken connections, with exponential backoff and
    # jitter. s3fs tries each call five times on top of that.
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 4},
        "connect_timeout": 10,
        "read_timeout": 60,
        # The default of 10 connections hides too little latency: readers of small objects keep 64 requests in flight.
        "max_pool_connections": 64,
        # botocore composes its own name again for each request, a tenth of the CPU time of a small one.
        "user_agent": "tagmask",
        # Otherwise an upload over TLS is chunked with a trailing checksum and no length, which Ceph RGW 16 refuses.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    },
}
"""Options of the S3 client. Endpoint, region and credentials come from the usual chain of AWS only."""


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Open the file system of a URI.

    Listings are not cached: other machines write to the same folders.

    Returns:
        The file system, and the name of the file or folder in it.

    Raises:
        ValueError: The URI contains a password or signature.
        UriError: Its scheme is unknown, the driver of its store is not installed, or it names a version of an object.
        StorageError: The driver refuses to start.
    """
    require_no_password(uri)
    uri = normalise_uri(uri)
    schemes = list_schemes(uri) or [uri.partition("://")[0]]
    for scheme in schemes:
        _require_known(uri, scheme)
    if VERSION.search(uri) and not {"s3", "s3a"}.isdisjoint(schemes):
        raise UriError(f"'{uri}' names a version of an object, which is not supported; leave out ?versionId=...")
    options = S3_OPTIONS if uri.startswith(("s3://", "s3a://")) else {}
    try:
        filesystem, name = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    except ImportError as error:
        raise UriError(_describe_missing_driver(uri, schemes)) from error
    except Exception as error:  # each driver checks its settings in its own way
        raise StorageError(
            f"'{uri}' cannot be opened: {describe_store_failure(error)}; check the URI and the credentials of its store"
        ) from error
    return filesystem, cast(str, name)


def _require_known(uri: str, scheme: str) -> None:
    if scheme in known_implementations or scheme in registry:
        return
    alike = difflib.get_close_matches(scheme, COMMON_SCHEMES, n=1, cutoff=0.5)
    advice = f"did you mean '{alike[0]}://'?" if alike else f"schemes such as {', '.join(COMMON_SCHEMES)} are known"
    raise UriError(f"'{uri}' has the unknown scheme '{scheme}'; {advice}")


def _describe_missing_driver(uri: str, schemes: list[str]) -> str:
    """Sentence that names the package of the first driver that cannot be imported."""
    for scheme in schemes:
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            driver = known_implementations[scheme]
            package = str(driver["class"]).partition(".")[0]
            if package != "fsspec":
                return f"'{uri}' needs a driver that is not installed; pip install {package.replace('_', '-')}"
            return f"'{uri}' needs a driver that is not installed: {driver.get('err', error)}"
    return f"'{uri}' needs a driver that is not installed; see the documentation of its store"


def is_s3(filesystem: Any) -> bool:
    """Check whether a file system is the client of S3, by the call that only it has."""
    return hasattr(filesystem, "call_s3")
