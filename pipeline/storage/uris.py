"""URIs as text: local paths, joins, and the check for passwords and signatures.

A URI is a plain local path, or a URI that fsspec knows: `file://`, `s3://`, `memory://` and others. URIs are written to
run.json, manifests and logs, so they must hold no secret.
"""

import os
import re
from pathlib import Path

SCHEMES = re.compile(
    r"(?:^|(?<=::))(?:[a-z][a-z0-9+.\-]*::)*[a-z][a-z0-9+.\-]*(?=://)",
    re.IGNORECASE,
)
"""Scheme of a URI, or of a link of a chained one, with the links before it that have no path (`simplecache::s3`)."""
ONE_SLASH = re.compile(r"^(s3a?|gs|gcs|az|abfss?|hf|https?|hdfs|memory|file):/(?!/)", re.IGNORECASE)
"""Start of a URI that lacks a slash, which would be read as a local path."""
NO_HOST = re.compile(r"^(file(?=://$)|(?:s3a?|gs|gcs|ftp|sftp)(?=://(?:/|$)))", re.IGNORECASE)
"""Scheme of a URI without what has to follow it: a bucket, a host, or the path of a file."""
BUCKET_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Schemes of stores whose first level is a bucket or container, which must exist before anything is written."""
SAME_STORE = {"s3a": "s3", "gcs": "gs"}
"""Schemes that lead to the same objects as another one."""
LINK = re.compile(r"::(?=[a-z0-9+.\-]+://)", re.IGNORECASE)
"""Separator of the links in fsspec's chained URIs (`simplecache::s3://...`)."""
NO_LOGIN = frozenset({"file", "local", "memory"})
"""Schemes without an authority: the rest of the URI is a path."""
NO_PORT = frozenset({"s3", "s3a", "gs", "gcs"})
"""Schemes whose authority is the name of a bucket, which contains no colon."""
PORT = re.compile(r":\d*$")
ADDRESS_WITH_COLONS = re.compile(r"^\[[0-9a-f:.]+\]|^arn:aws[a-z\-]*:s3[a-z\-]*:[^@]*$", re.IGNORECASE)
"""Authorities that contain colons and no password: IPv6 in brackets, or the access point of a bucket."""
SIGNATURE = re.compile(
    r"[?&#](x-amz-(signature|credential|security-token)|x-goog-(signature|credential)|awsaccesskeyid|googleaccessid"
    r"|signature|sig|token|access_token)=",
    re.IGNORECASE,
)
"""Query parameters that grant access by themselves: signatures of AWS, Google and Azure (SAS), and tokens."""


def get_local_path(uri: str) -> Path | None:
    """Local path of a URI; None if the URI is not on a local disk.

    >>> get_local_path("s3://bucket/a.tar") is None
    True
    """
    if uri.lower().startswith(("file://", "local://")):
        return Path(uri.partition("://")[2])
    return None if "://" in uri else Path(uri)


def list_schemes(uri: str) -> list[str]:
    """List the schemes of a URI in lower case: one, or several of a chained URI; none for a local path.

    >>> list_schemes("S3://bucket/a"), list_schemes("tar://a::simplecache::s3://b/c.tar"), list_schemes("a.tar")
    (['s3'], ['tar', 'simplecache', 's3'], [])
    """
    return [scheme.lower() for found in SCHEMES.findall(uri) for scheme in found.split("::")]


def normalise_uri(uri: str) -> str:
    """Write the scheme of a URI in lower case; local paths stay as they are.

    >>> normalise_uri("S3://Bucket/A.tar"), normalise_uri("SimpleCache::S3://b/A"), normalise_uri("A:b.tar")
    ('s3://Bucket/A.tar', 'simplecache::s3://b/A', 'A:b.tar')

    Raises:
        ValueError: A slash is missing after the scheme, or the bucket or host.
    """
    if (match := ONE_SLASH.match(uri)) and not Path(uri).exists():
        scheme = match[1].lower()
        # The URI of a local file has no host, so its path keeps its slash.
        slashes = "///" if scheme == "file" else "//"
        raise ValueError(f"'{uri}' has one slash after '{scheme}:'; write '{scheme}:{slashes}{uri[match.end() :]}'")
    if match := NO_HOST.match(uri):
        what = "file" if match[1].lower() == "file" else "bucket" if match[1].lower() in BUCKET_SCHEMES else "host"
        raise ValueError(f"'{uri}' names no {what}; write it after '{match[1]}://'")
    return SCHEMES.sub(lambda match: match[0].lower(), uri)


def identify_place(uri: str) -> str:
    """Text that is equal for spellings of the same file: `s3a://` and `s3://`, `file://` and a path, `a//b` on a disk.

    In an object store `a//b` and `a/b` are two objects.

    >>> identify_place("s3a://b/a.tar"), identify_place("file:///data//x/../a.tar")
    ('s3://b/a.tar', '/data/a.tar')
    """
    path = get_local_path(uri)
    if path is not None:
        return os.path.abspath(path)  # noqa: PTH100 (keeps links)
    scheme, separator, rest = uri.partition("://")
    return SAME_STORE.get(scheme, scheme) + separator + rest


def join_uri(base: str, *parts: str) -> str:
    """Append parts to a URI.

    >>> join_uri("s3://bucket/run/", "labels", "a.parquet")
    's3://bucket/run/labels/a.parquet'
    """
    if not parts:
        return base
    scheme, separator, path = base.rpartition("://")
    tail = "/".join(part.strip("/") for part in parts)
    # The root folder must keep its slash, and memory:// its scheme.
    head = f"{path.rstrip('/')}/" if path.strip("/") else path[:1]
    return scheme + separator + head + tail


def require_no_password(uri: str) -> None:
    """Check that a URI contains no secret: no password or token before a host, no signature in its query.

    A password is recognised by the colon before it and may contain slashes. Before the host of a web address everything
    counts as a secret.

    >>> require_no_password("abfs://container@account.dfs.core.windows.net/a:b@c.tar")
    >>> require_no_password("s3://bucket/user@host/a.tar")

    Raises:
        ValueError: The URI contains a secret; the message does not repeat it.
    """
    links = LINK.split(uri)
    if any(_has_password(link) for link in links):
        raise ValueError(
            f"'{_hide_password(uri)}' holds a password, which would be written down; leave it out and give credentials "
            "by the usual variables, files or roles of the store"
        )
    if any("://" in link and SIGNATURE.search(link) for link in links):
        raise ValueError(
            f"'{re.split('[?#]', uri)[0]}?...' holds a signature, which would be written down; give the plain URI, and "
            "credentials by the usual variables, files or roles of the store"
        )


def holds_secret(uri: str) -> bool:
    """Whether a URI contains a secret, by the rules of `require_no_password`.

    >>> holds_secret("https://host/a.jpg?token=x"), holds_secret("https://host/a.jpg?width=9")
    (True, False)
    """
    try:
        require_no_password(uri)
    except ValueError:
        return True
    return False


def _has_password(link: str) -> bool:
    scheme, separator, rest = link.partition("://")
    scheme = scheme.rpartition("::")[2].lower()
    if not separator or scheme in NO_LOGIN or "@" not in rest:
        return False
    if scheme.rpartition("+")[2] in ("http", "https") and "@" in re.split(r"[/?#]", rest)[0]:
        return True
    # A password may contain a slash, so a colon that starts no port means a password, wherever the @ is.
    authority = ADDRESS_WITH_COLONS.sub("", rest.partition("/")[0])
    return ":" in (authority if scheme in NO_PORT else PORT.sub("", authority))


def _hide_password(uri: str) -> str:
    """Replace all before the last @ by dots; hide all if there is a query, which may contain a password, too."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://..." if re.search("[?#]", rest) else f"{scheme}://...@{rest.rpartition('@')[2]}"
