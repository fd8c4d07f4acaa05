"""A run of made-up rows behind the API of reviews: any number of rows, slow or failing at will, with hostile texts.

The page cannot tell it from a real one. It holds no photo: each is drawn when it is asked for.
"""

import io
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image, ImageDraw

from pipeline.review.page_files import PAGE_HEADERS, read_page_file

HOSTILE = (
    "<img src=x onerror=window.broken=1>",
    "\"'><script>window.broken=1</script>",
    "\u202egnp.exe right to left \u05d0\u05d1\u05d2",
    "👩‍👩‍👧 family 🦓",
    "x" * 300,
    "two\nlines\tand a tab",
    "../../etc/passwd?class=1#a&b=%2F",
    "a/b.c d+e%20f",
)
CLASSES = ("bird", "cat", "cow", "dog", "horse", "sheep", HOSTILE[0], HOSTILE[4])
COLOURS = (
    (224, 96, 64),
    (46, 160, 90),
    (66, 120, 220),
    (220, 170, 40),
    (150, 80, 200),
    (20, 160, 170),
    (46, 160, 90),
    (200, 60, 130),
)
"""Two classes share a colour, as those of a user may."""
DECISIONS = ("accept", "refuse", "wrong_tag", "missing_tag", "redraw")
SIZE = (320, 240)
MASK_SIZE = (160, 120)
TRUTH_SHIFT_PX = 12


@dataclass
class MadeUpRun:
    """The state that a test sets and reads."""

    num_rows: int = 1000
    num_runs: int = 2
    has_truth: bool = True
    indexed: tuple[int, int] = (4, 4)
    """Shards that are read, of all."""
    photo_size: tuple[int, int] = (64, 48)
    """Pixels of drawn photos, thumbnails and full ones: few, for tests are many."""
    token: str = "made-up-token"
    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    posts: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of decisions that were stored, in order."""
    requests: list[str] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)
    """Start of a path -> status to answer; 0 closes the connection without an answer."""
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """Start of a path -> event to wait for before the answer."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def quality(self) -> np.ndarray:
        """Quality by number of the row; the numbers are not in this order."""
        return np.random.default_rng(0).permutation(self.num_rows) / max(1, self.num_rows)

    @cached_property
    def by_quality(self) -> np.ndarray:
        return np.argsort(self.quality, kind="stable")

    def key(self, number: int) -> str:
        if number % 10 == 3:
            return f"{HOSTILE[number // 10 % len(HOSTILE)]} {number}"
        return f"photo-{number:07d}"

    def class_ids(self, number: int) -> list[int]:
        first = number % 6 + 1
        return [first, len(CLASSES) - number % 2] if number % 7 == 0 else [first]

    def is_rejected(self, number: int) -> bool:
        return number % 50 == 9

    def row(self, number: int) -> dict[str, Any]:
        rejected = self.is_rejected(number)
        ids = [] if rejected else self.class_ids(number)
        row_id = f"shard-{number // 1000}/{number % 1000}"
        return {
            "id": row_id,
            "key": self.key(number),
            "shard": f"memory://photos/shard-{number // 1000}.tar",
            "index": number % 1000,
            "status": "rejected" if rejected else "labelled",
            "reason": "undecodable" if rejected else None,
            "error": f"broken data stream {HOSTILE[0]}" if rejected else None,
            "quality": None if rejected else float(self.quality[number]),
            "tags": [CLASSES[one - 1] for one in ids],
            "tags_unknown": [HOSTILE[2]] if number % 10 == 3 else [],
            "class_ids": ids,
            "suggested_class_ids": [(number + 1) % 6 + 1] if number % 5 == 0 and not rejected else [],
            "doubtful_class_ids": ids[:1] if number % 11 == 0 else [],
            "width": SIZE[0],
            "height": SIZE[1],
            "orientation": 1,
            "decision": self.decisions.get(row_id),
        }

    def full_row(self, number: int) -> dict[str, Any]:
        stats = [
            {
                "class_id": one,
                "presence": 0.93,
                "presence_std": 0.02,
                "stability": 0.71,
                "area_fraction": 0.31,
                "components": 2,
            }
            for one in self.row(number)["class_ids"]
        ]
        measures = {"ignore_fraction": 0.0, "background_fraction": 0.69, "margin_mean": 0.55, "entropy_mean": 0.21}
        return {**self.row(number), **measures, "classes": stats, "image_sha256": f"{number:064x}"}

    def number_of(self, row_id: str) -> int:
        shard, _, index = row_id.rpartition("/")
        number = int(shard.removeprefix("shard-")) * 1000 + int(index)
        if not 0 <= number < self.num_rows:
            raise KeyError(row_id)
        return number

    def passes(self, row: dict[str, Any], filters: dict[str, str]) -> bool:
        decision = (row["decision"] or {}).get("decision", "none")
        disagrees = bool(row["suggested_class_ids"] or row["doubtful_class_ids"])
        tests = {
            "class": lambda wanted: int(wanted) in row["class_ids"],
            "status": lambda wanted: row["status"] == wanted,
            "reason": lambda wanted: row["reason"] == wanted,
            "doubtful": lambda _: bool(row["doubtful_class_ids"]),
            "suggested": lambda _: bool(row["suggested_class_ids"]),
            "disagree": lambda _: disagrees,
            "decision": lambda wanted: decision == wanted,
            "search": lambda wanted: wanted in row["key"],
        }
        return all(test(filters[name]) for name, test in tests.items() if filters.get(name))

    def choose(self, filters: dict[str, str], order: str) -> np.ndarray:
        numbers = self.by_quality if order == "quality" else self.by_quality[::-1]
        if order == "key":
            numbers = np.array(sorted(range(self.num_rows), key=self.key))
        filters = {name: value for name, value in filters.items() if name not in ("order", "offset", "limit")}
        if not filters:
            return numbers
        return np.array([number for number in numbers if self.passes(self.row(int(number)), filters)], int)

    def rows(self, query: dict[str, str]) -> dict[str, Any]:
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        # The rows of shards that are not read yet are not in the list.
        last = self.num_rows * self.indexed[0] // self.indexed[1]
        chosen = self.choose(query, query.get("order", "quality"))
        chosen = chosen[chosen < last]
        rows = [self.row(int(number)) for number in chosen[offset : offset + limit]]
        return {"total": len(chosen), "indexed": dict(zip(("shards", "of"), self.indexed, strict=True)), "rows": rows}

    def facets(self, query: dict[str, str]) -> dict[str, Any]:
        counts: dict[str, Any] = {"class": {}, "status": {}, "reason": {}, "decision": {}}
        flags = {"doubtful": 0, "suggested": 0, "disagree": 0}
        for number in self.choose(query, "quality")[:2000]:
            row = self.row(int(number))
            for one in row["class_ids"]:
                counts["class"][str(one)] = counts["class"].get(str(one), 0) + 1
            decision = (row["decision"] or {}).get("decision", "none")
            for name, value in (("status", row["status"]), ("reason", row["reason"]), ("decision", decision)):
                if value:
                    counts[name][value] = counts[name].get(value, 0) + 1
            flags["doubtful"] += bool(row["doubtful_class_ids"])
            flags["suggested"] += bool(row["suggested_class_ids"])
            flags["disagree"] += bool(row["suggested_class_ids"] or row["doubtful_class_ids"])
        return {**counts, **flags}

    def describe(self) -> dict[str, Any]:
        classes = [{"id": place + 1, "name": name, "colour": COLOURS[place]} for place, name in enumerate(CLASSES)]
        return {
            "runs": [{"uri": f"memory://run-{number}", "name": f"run-{number}"} for number in range(self.num_runs)],
            "classes": [{"id": 0, "name": "background", "colour": [0, 0, 0]}, *classes],
            "reasons": ["undecodable", "too_large"],
            "statuses": ["labelled", "rejected"],
            "decisions": list(DECISIONS),
            "num_rows": self.num_rows,
            "indexed": dict(zip(("shards", "of"), self.indexed, strict=True)),
            "has_truth": self.has_truth,
            "has_maps": True,
            "reviewer": "ada",
        }


def draw_shape(draw: ImageDraw.ImageDraw, size: tuple[int, int], number: int, fill: Any, shift_px: int = 0) -> None:
    """A body and a head: the same place in photo and mask."""
    random = np.random.default_rng(number)
    width, height = size
    x, y = random.uniform(0.3, 0.6) * width + shift_px, random.uniform(0.5, 0.65) * height
    body, head = random.uniform(0.16, 0.24) * width, random.uniform(0.06, 0.1) * width
    draw.ellipse((x - body, y - body * 0.6, x + body, y + body * 0.6), fill=fill)
    draw.ellipse(
        (x + body * 0.6 - head, y - body * 0.6 - head, x + body * 0.6 + head, y - body * 0.6 + head), fill=fill
    )


@lru_cache(1000)
def draw_photo(number: int, size: tuple[int, int]) -> bytes:
    random = np.random.default_rng(number)
    dark = 0.25 if number % 3 == 0 else 1.0
    top, bottom = random.uniform(90, 255, 3) * dark, random.uniform(50, 170, 3) * dark
    share = np.linspace(0, 1, size[1])[:, None, None] ** 1.5
    pixels = (1 - share) * top + share * bottom + random.normal(0, 5, (size[1], size[0], 1))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, width = random.uniform(0, size[0]), random.uniform(0.1, 0.4) * size[0]
        hill = tuple(int(one) for one in bottom * random.uniform(0.6, 0.95))
        draw.ellipse((x - width, size[1] * 0.72, x + width, size[1] * 1.4), fill=hill)
    draw_shape(draw, size, number, tuple(int(one) for one in random.uniform(40, 235, 3) * max(dark, 0.5)))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


@lru_cache(1000)
def draw_mask(number: int, class_id: int, shift_px: int, overlay: bool) -> bytes:
    image = Image.new("P", MASK_SIZE, 0)
    image.putpalette([0, 0, 0, *(one for colour in COLOURS for one in colour)] + [200] * 3 * (255 - len(COLOURS)))
    draw_shape(ImageDraw.Draw(image), MASK_SIZE, number, class_id, shift_px)
    if not overlay:
        image.paste(255, (0, 0, MASK_SIZE[0], 4))
    out = io.BytesIO()
    image.save(out, "PNG", **({"transparency": 0} if overlay else {}))
    return out.getvalue()


def draw_map() -> bytes:
    pixels = np.linspace(0, 255, 14 * 14).astype(np.uint8).reshape(14, 14)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers for the `run` of its server."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        self.answer(self.get)

    def do_POST(self) -> None:
        self.answer(self.post)

    def do_DELETE(self) -> None:
        self.answer(self.delete)

    def answer(self, make: Any) -> None:
        run = self.server.run
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.url.query).items()}
        with run.lock:
            run.requests.append(f"{self.command} {self.path}")
        place = f"{self.command} {self.path}"
        for start, gate in list(run.gates.items()):
            if place.startswith(start):
                gate.wait(120)
        for start, status in list(run.failing.items()):
            if place.startswith(start):
                if not status:
                    self.close_connection = True
                    return
                self.send(status, json.dumps({"error": f"made-up failure {HOSTILE[0]}"}).encode())
                return
        try:
            make(body)
        except (KeyError, FileNotFoundError) as error:
            self.send(404, json.dumps({"error": f"no {error}"}).encode())

    def get(self, _: bytes) -> None:
        run = self.server.run
        parts = [unquote(part) for part in self.url.path.split("/")[1:]]
        if parts == [""]:
            self.send_page("index.html")
        elif parts[0] == "static":
            self.send_page(parts[1])
        elif parts[1] in ("run", "rows", "facets"):
            makers = {
                "run": run.describe,
                "rows": lambda: run.rows(self.query),
                "facets": lambda: run.facets(self.query),
            }
            self.send(200, json.dumps(makers[parts[1]]()).encode())
        elif parts[1] == "row":
            self.send(200, json.dumps(run.full_row(run.number_of(parts[2]))).encode())
        else:
            self.send_picture(parts[1], run.number_of(parts[2]))

    def send_picture(self, kind: str, number: int) -> None:
        run = self.server.run
        class_id = run.class_ids(number)[0]
        if run.is_rejected(number) or (kind == "mask" and int(self.query["run"]) >= run.num_runs):
            raise FileNotFoundError(f"image: {HOSTILE[1]}")
        if kind == "image":
            self.send(200, draw_photo(number, run.photo_size), "image/jpeg")
        elif kind == "maps":
            self.send(200, draw_map(), "image/png")
        else:
            shift = TRUTH_SHIFT_PX if kind == "truth" else 20 * int(self.query["run"])
            self.send(200, draw_mask(number, class_id, shift, "overlay" in self.query), "image/png")

    def post(self, body: bytes) -> None:
        run = self.server.run
        sent = json.loads(body)
        run.number_of(sent["id"])
        if self.headers.get("X-Tagmask-Token") != run.token:
            self.send(403, b'{"error": "wrong token"}')
            return
        stored = {**sent, "reviewer": "ada", "time": "2026-01-02T03:04:05Z"}
        with run.lock:
            run.decisions[sent["id"]] = stored
            run.posts.append(sent)
        self.send(200, json.dumps(stored).encode())

    def delete(self, _: bytes) -> None:
        del self.server.run.decisions[unquote(self.url.path.removeprefix("/api/decisions/"))]
        self.send(200, b"{}")

    def send_page(self, name: str) -> None:
        page = read_page_file(name)
        self.send(200, page.content, page.media_type)

    def send(self, status: int, content: bytes, media_type: str = "application/json") -> None:
        self.send_response(status)
        for name, value in PAGE_HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        # Files of the page stay from test to test; what a test lets fail must not.
        self.send_header("Cache-Control", "no-store" if self.url.path.startswith("/api/") else "max-age=600")
        self.end_headers()
        try:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """Serves a made-up run at a free port of this machine."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, run: MadeUpRun) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.run = run

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/?token={self.run.token}"

    def handle_error(self, *_: Any) -> None:
        """Browsers close connections that they no longer want."""
