"""A small server of the Hugging Face hub's interface: repositories of datasets, their trees, and their files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_rightrightright"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", "refs/convert/parquet", COMMIT)


@dataclass
class HubServer:
    """Files by repository and path; all revisions but `REVISIONS` are missing."""

    files: dict[str, dict[str, bytes]]
    private: frozenset[str] = frozenset()
    """Repositories that need the token, and look missing without it."""
    gated: frozenset[str] = frozenset()
    """Repositories that everyone sees, and whose files need more than the token."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""
    is_down: bool = False
    """Answer 503 to everything."""
    url: str = ""


@contextmanager
def serve_hub(hub: HubServer) -> Iterator[HubServer]:
    """Serve a hub on a free port."""

    class Handler(_HubHandler):
        served = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()


class _HubError(Exception):
    """A refusal, with the header by which the hub's client knows its kind."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: HubServer

    def _handle(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.served.requests.append(f"{self.command} {self.path}")
        try:
            self._answer_request([unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")])
        except _HubError as error:
            headers = {"X-Error-Code": error.code} if error.code else {}
            payload = json.dumps({"error": error.message}).encode()
            self._answer(error.status, payload, {**headers, "X-Error-Message": error.message})

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815 (names of http.server)

    def _answer_request(self, parts: list[str]) -> None:
        if self.served.is_down:
            raise _HubError(503, None, "Service Unavailable")
        is_api = parts[0] == "api"
        if parts[is_api] != "datasets":
            raise _HubError(401, "RepoNotFound", "Repository not found")
        organisation, name, *rest = parts[is_api + 1 :]
        files = self._find_repository(f"{organisation}/{name}", is_file=not is_api)
        kind, revision, *path = rest or ["revision", "main"]
        if revision not in REVISIONS:
            raise _HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        where = "/".join(path)
        if kind == "revision":
            self._answer_json({"id": f"{organisation}/{name}", "sha": COMMIT, "siblings": [], "tags": []})
        elif kind == "tree":
            self._answer_json(_list_tree(files, where, is_recursive="recursive=true" in self.path.lower()))
        elif kind == "resolve":
            self._answer_file(files, where)
        else:
            raise _HubError(404, None, f"no such call: {kind}")

    def _find_repository(self, repository: str, *, is_file: bool) -> dict[str, bytes]:
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            raise _HubError(401, None, "Invalid credentials in Authorization header")
        if repository not in self.served.files or (repository in self.served.private and token is None):
            raise _HubError(401, "RepoNotFound", "Repository not found")
        if repository in self.served.gated and is_file:
            raise _HubError(403, "GatedRepo", f"Access to dataset {repository} is restricted")
        return self.served.files[repository]

    def _answer_file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            raise _HubError(404, "EntryNotFound", "Entry not found")
        content = files[path]
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(content)) + 1, len(content))
            headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            self._answer(206, content[start:end], headers)
        else:
            self._answer(200, content, {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT})

    def _answer_json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, payload: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _list_tree(files: dict[str, bytes], folder: str, *, is_recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        parents = path[len(prefix) :].split("/")[:-1]
        for depth in range(len(parents)) if is_recursive else range(min(len(parents), 1)):
            name = prefix + "/".join(parents[: depth + 1])
            entries[name] = {"type": "directory", "oid": _hash(name.encode()), "size": 0, "path": name}
        if is_recursive or not parents:
            entries[path] = {"type": "file", "oid": _hash(content), "size": len(content), "path": path}
    if not entries:
        raise _HubError(404, "EntryNotFound", f"{folder} does not exist")
    return [entries[name] for name in sorted(entries)]


def _hash(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
