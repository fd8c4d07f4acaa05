"""Where a job computes and which store it uses. Without Ray, whose import takes a second."""

import os

from pipeline.storage.uris import require_no_password


def use_endpoint(url: str | None) -> None:
    """Set the endpoint of S3 in this process and in all workers; None keeps the current one.

    Raises:
        ValueError: The endpoint is not an http(s) URL, or contains a password.
    """
    if url is None:
        return
    require_no_password(url)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"need --endpoint-url to start with http:// or https://, got '{url.rpartition('@')[2]}'")
    os.environ["AWS_ENDPOINT_URL"] = url


def find_address(address: str | None) -> str:
    """The address that `connect` uses: `local` for a Ray of our own."""
    return address or os.environ.get("RAY_ADDRESS") or "local"
