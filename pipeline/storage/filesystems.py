"""fsspec's file systems of stores: how they are opened, and the options of S3."""

from typing import Any, cast

import fsspec

from pipeline.storage.uris import require_no_password

S3_OPTIONS = {
    # botocore's standard mode waits longer after each try, with jitter; it takes up throttling (503), timeouts and
    # broken connections. s3fs tries five times on top of that.
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 4},
        "connect_timeout": 10,
        "read_timeout": 60,
        # Else an upload over TLS is sent in chunks that end in a checksum, without a length: Ceph RGW 16 refuses that.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    },
}
"""How S3 is asked. Endpoint, region and credentials come from the usual chain of AWS and from nowhere else."""


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Give the file system of a URI and the URI's name in it."""
    require_no_password(uri)
    options = S3_OPTIONS if uri.startswith(("s3://", "s3a://")) else {}
    filesystem, name = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    return filesystem, cast(str, name)


def is_s3(filesystem: Any) -> bool:
    return hasattr(filesystem, "call_s3")
