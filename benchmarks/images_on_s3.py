"""Reading images from S3 by an index and from a tar, with a delay before each reply of the server.

    python -m benchmarks.images_on_s3

It writes photos of random bytes to moto's S3 server and reads them as the labelling job does: an index shard (a request
an image), and a tar of the same photos (a request for 8 MiB). Each figure is the best of a few readings.
"""

import json
import multiprocessing
import os
import tarfile
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO

import tyro

from benchmarks.delayed_s3 import BUCKET, DelayedS3, start_delayed_s3
from benchmarks.peak_memory import read_peak_bytes
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard
from pipeline.storage.writing import put_atomic

FOLDER = f"s3://{BUCKET}/folder"


@dataclass(frozen=True, kw_only=True)
class ReadJob:
    """Read the same photos by an index and from a tar."""

    num_images: int = 3000
    image_bytes: int = 50_000
    delays_ms: tuple[float, ...] = (0, 20, 50)
    """Delays before each reply."""
    num_rounds: int = 3

    def run(self) -> None:
        """Print samples a second, requests an image and CPU time."""
        with start_delayed_s3() as server, tempfile.TemporaryDirectory() as local:
            # The tar is written from memory; in a process of its own, it does not count as memory of the reader.
            writer = multiprocessing.get_context("spawn").Process(target=self.write)
            writer.start()
            writer.join()
            index = IndexPlace(f"{local}/index", is_begun=False)
            shards = find_inputs([FOLDER], InputConfig(), index, print, print)
            forms = {"index": shards, "tar": list_shards([f"s3://{BUCKET}/photos.tar"])}
            for found in forms.values():
                self._read(found)
            for delay_ms in self.delays_ms:
                for name, found in forms.items():
                    self._measure(server, delay_ms, name, found)

    def _measure(self, server: DelayedS3, delay_ms: float, name: str, shards: tuple[InputShard, ...]) -> None:
        best_s, cpu_s = float("inf"), 0.0
        for _ in range(self.num_rounds):
            server.set_delay(delay_ms / 1e3)
            start, start_cpu = time.perf_counter(), time.process_time()
            self._read(shards)
            if (seconds := time.perf_counter() - start) < best_s:
                best_s, cpu_s = seconds, time.process_time() - start_cpu
        counts = ", ".join(f"{num / self.num_images:.3f} {kind}" for kind, num in server.count_requests().items())
        peak = read_peak_bytes() / 2**20
        print(
            f"{delay_ms:g} ms, {name}: {self.num_images / best_s:.0f} samples/s, "
            f"{1e3 * cpu_s / self.num_images:.2f} ms of CPU, {counts} an image, peak {peak:.0f} MiB",
            flush=True,
        )

    def _read(self, shards: tuple[InputShard, ...]) -> None:
        pieces = (piece for shard in shards for piece in read_chunks(shard, InputConfig()))
        num_images = sum(
            sample.image is not None for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples
        )
        assert num_images == self.num_images, num_images

    def write(self) -> None:
        """Write the photos, their table and the tar."""
        buffer, lines = BytesIO(), []
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for number in range(self.num_images):
                name, payload = f"{number:06d}.jpg", os.urandom(self.image_bytes)
                put_atomic(f"{FOLDER}/{name}", payload)
                for member, content in ((name, payload), (f"{number:06d}.txt", b"dog")):
                    header = tarfile.TarInfo(member)
                    header.size = len(content)
                    archive.addfile(header, BytesIO(content))
                lines.append(json.dumps({"file_name": name, "tags": ["dog"]}))
        put_atomic(f"s3://{BUCKET}/photos.tar", buffer.getvalue())
        put_atomic(f"{FOLDER}/metadata.jsonl", "\n".join(lines).encode())


if __name__ == "__main__":
    tyro.cli(ReadJob).run()
