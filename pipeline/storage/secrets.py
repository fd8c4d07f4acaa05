"""URIs that hold what must not be written down: they stand in run.json, in manifests and in logs."""

import re

LINK = re.compile(r"::(?=[a-z0-9+.\-]+://)", re.IGNORECASE)
"""Where fsspec's chained URIs (`simplecache::s3://...`) go on."""
NO_LOGIN = frozenset({"file", "local", "memory"})
"""Schemes whose URIs are paths, from their first character on."""
NO_PORT = frozenset({"s3", "s3a", "gs", "gcs"})
"""Schemes whose URIs begin with the name of a bucket, which holds no colon."""
PORT = re.compile(r":\d*$")
ADDRESS_WITH_COLONS = re.compile(r"^\[[0-9a-f:.]+\]|^arn:aws[a-z\-]*:s3[a-z\-]*:[^@]*$", re.IGNORECASE)
"""IPv6 in brackets, or the access point of a bucket."""
SIGNATURE = re.compile(
    r"[?&#](x-amz-(signature|credential|security-token)|x-goog-(signature|credential)|awsaccesskeyid|googleaccessid"
    r"|signature|sig|token|access_token)=",
    re.IGNORECASE,
)
"""What makes a URI an entrance by itself: signed by AWS, Google or Azure (SAS), or with a token."""


def require_no_password(uri: str) -> None:
    """Check that a URI tells no secret: no password or token before a host, no signature behind a path.

    A password is told by its colon, and may hold slashes. Before the host of a web address everything is a secret.

    >>> require_no_password("abfs://container@account.dfs.core.windows.net/a:b@c.tar")
    >>> require_no_password("s3://bucket/user@host/a.tar")

    Raises:
        ValueError: There is a secret in it, which the message does not repeat.
    """
    links = LINK.split(uri)
    if any(_has_login(link) for link in links):
        raise ValueError(
            f"'{_hide_login(uri)}' holds a password, which would be written down; leave it out and give credentials by "
            "the usual variables, files or roles of the store"
        )
    if any("://" in link and SIGNATURE.search(link) for link in links):
        raise ValueError(
            f"'{re.split('[?#]', uri)[0]}?...' holds a signature, which would be written down; give the plain URI, and "
            "credentials by the usual variables, files or roles of the store"
        )


def _has_login(link: str) -> bool:
    scheme, separator, rest = link.partition("://")
    scheme = scheme.rpartition("::")[2].lower()
    if not separator or scheme in NO_LOGIN or "@" not in rest:
        return False
    if scheme.rpartition("+")[2] in ("http", "https") and "@" in re.split(r"[/?#]", rest)[0]:
        return True
    # A password may hold a slash, so a colon that is no port tells of one, wherever its @ stands.
    authority = ADDRESS_WITH_COLONS.sub("", rest.partition("/")[0])
    return ":" in (authority if scheme in NO_PORT else PORT.sub("", authority))


def _hide_login(uri: str) -> str:
    """Give what follows the last @; nothing if there is a query, which may belong to the password or hold another."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://..." if re.search("[?#]", rest) else f"{scheme}://...@{rest.rpartition('@')[2]}"
