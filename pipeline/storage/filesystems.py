"""fsspec file systems: opening them by URI, and the options of S3."""

from typing import Any, cast

import fsspec

from pipeline.storage.uris import require_no_password

S3_OPTIONS = {
    # botocore's standard mode retries throttling (503), timeouts and broken connections, with exponential backoff and
    # jitter. s3fs tries each call five times on top of that.
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 4},
        "connect_timeout": 10,
        "read_timeout": 60,
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
    """
    require_no_password(uri)
    options = S3_OPTIONS if uri.startswith(("s3://", "s3a://")) else {}
    filesystem, name = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    return filesystem, cast(str, name)


def is_s3(filesystem: Any) -> bool:
    """Check whether a file system is the client of S3, by the call that only it has."""
    return hasattr(filesystem, "call_s3")
