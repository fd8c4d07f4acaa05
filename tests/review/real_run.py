"""A small published run with photos of all orientations and formats, hostile keys and rejected rows, and its server."""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from pipeline.evaluation.truth import open_truth
from pipeline.images.orientation import ORIENTATIONS
from pipeline.published.overrides import read_overrides
from pipeline.published.run import open_published
from pipeline.review.api import ReviewApi, Truth
from pipeline.review.decision_log import DecisionLog
from pipeline.review.index import RowIndex
from pipeline.review.server import ReviewServer
from pipeline.run.config import LabelConfig, MapConfig
from pipeline.run.records import InputShard
from pipeline.storage.listing import find_object
from tests.factories import make_labelled_row, make_mask_png, make_rejected_row, make_run, make_tar

CLASSES = ("cat", "dog", "<b>\"'&")
TOKEN = "made-up"
WIDTH, HEIGHT = 40, 24
HOSTILE_KEYS = ("<img src=x onerror=1>", "two\nlines", "\u202eleft", "🐱", "a/b", "x" * 90, "'\"&%2F?#")
MODES = {"L": "JPEG", "CMYK": "JPEG", "RGBA": "PNG", "P": "PNG", "RGB": "WEBP", "I;16": "PNG"}
EMPTY_SHARD = "empty"


def make_square(orientation: int = 1, mode: str = "RGB", image_format: str = "JPEG") -> tuple[bytes, np.ndarray]:
    """A photo with a white corner, and the mask of the corner; both on the stored pixels."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:8, :16] = 1
    image = Image.fromarray(mask * 255)
    image = Image.fromarray(mask.astype(np.uint16) * 65535) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = io.BytesIO()
    image.save(sink, image_format, exif=exif, quality=95)
    return sink.getvalue(), mask


def make_reviewed_run(folder: Path, out_uri: str) -> str:
    """Publish the run: shards `turned`, `hostile`, `kinds` and one without rows."""
    shards: dict[InputShard, list[dict[str, Any]]] = {}

    def add(name: str, photos: dict[str, tuple[bytes, np.ndarray, int]], rejected: tuple[str, ...] = ()) -> None:
        members = {key: {"jpg": photo, "cls": b"cat"} for key, (photo, _, _) in photos.items()}
        members |= {key: {"jpg": b"no photo", "cls": b"cat"} for key in rejected}
        path = make_tar(folder / f"{name}.tar", members)
        found = find_object(str(path))
        assert found is not None
        shard = InputShard(uri=str(path), name=name, size_bytes=found.size_bytes, etag=found.etag)
        rows = []
        for place, (key, (photo, mask, orientation)) in enumerate(photos.items()):
            upright_maps = np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 2, 3)
            row = make_labelled_row(key, mask, [1], upright_maps, photo=photo, exif_orientation=orientation)
            rows.append(row | {"quality": 1 - place / 100, "suggested_class_ids": [2] * (place % 3 == 0)})
        shards[shard] = rows + [make_rejected_row(key) for key in rejected]

    add("turned", {f"photo-{one}": (*make_square(one), one) for one in sorted(ORIENTATIONS)})
    add("hostile", {key: (*make_square(), 1) for key in (*HOSTILE_KEYS, "photo-1", "PHOTO-1")}, ("broken",))
    add("kinds", {mode: (*make_square(1, mode, kind), 1) for mode, kind in MODES.items()})
    add(EMPTY_SHARD, {})
    make_run(out_uri, CLASSES, shards, LabelConfig(maps=MapConfig(keep_maps=True)))
    return out_uri


def make_truth(folder: Path) -> Path:
    """True masks of the turned photos, on their stored pixels; they say how they are turned."""
    folder.mkdir()
    for one in sorted(ORIENTATIONS):
        (folder / f"photo-{one}.png").write_bytes(make_mask_png(make_square()[1], one))
    return folder


class Reply(NamedTuple):
    status: int
    headers: Any
    content: bytes

    @property
    def fields(self) -> Any:
        return json.loads(self.content)


class Client(NamedTuple):
    """Asks a server, as a browser with its cookie or as others would."""

    server: ReviewServer

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=30)
        sent = {"X-Tagmask-Token": TOKEN} | {name.replace("_", "-"): text for name, text in headers.items()}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        connection.request(method, path, content, sent)
        reply = connection.getresponse()
        found = Reply(reply.status, reply.headers, reply.read())
        connection.close()
        return found

    def picture(self, kind: str, row_id: str, query: str = "") -> Image.Image:
        reply = self.ask(f"/api/{kind}/{quote(row_id, safe='')}{query}")
        assert reply.status == 200, reply.content
        return Image.open(io.BytesIO(reply.content))


@contextmanager
def serve(*run_uris: str, truth: Path | None = None, reviewer: str = "ada", session: str = "s1") -> Iterator[Client]:
    """Serve the page of a run, indexed."""
    runs = [open_published(uri) for uri in run_uris]
    fingerprint = str(runs[0].record["fingerprint"])
    log = DecisionLog(runs[0].uri, fingerprint, reviewer, session, lambda: datetime.now(UTC))
    index = RowIndex(runs[0])
    index.read_all()
    api = ReviewApi(
        runs, index, log, None if truth is None else Truth(open_truth(str(truth))), read_overrides(runs[0].uri)
    )
    server = ReviewServer(api, "127.0.0.1", 0, TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Client(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
