"""Does the colour profile of a photo matter to its mask? Photos in wide gamuts, masks with and without conversion.

    python -m benchmarks.colour_profiles --model bundle --vocabulary vocabulary.json --shards 'eval-*.tar' --truth truth

Each photo, which is sRGB, is written again as a camera set to a wide gamut writes it: the same colours, other numbers,
and, where they are converted, the profile in the file. Masks of these are compared with that of the photo: of the
numbers as they are, as a reader without colour management sees them; of the numbers with their profile, which
`decode_image` converts to sRGB; and of the photo as sRGB, encoded again, which shows what the encoding costs.
"""

import io
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from PIL import Image

from pipeline.bundles import load_bundle
from pipeline.evaluation.truth import decode_truth, open_truth
from pipeline.images.decode import DecodedImage, decode_image
from pipeline.images.masks import decode_mask
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.labelling.labeler import ChunkLabeler
from pipeline.run.config import InputConfig, LabelConfig
from pipeline.run.records import Chunk, Sample
from pipeline.run.vocabulary import Vocabulary, load_vocabulary

# Chromaticities of red, green, blue and white, and the exponent of the tone curve.
GAMUTS = {
    "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290)), 2.2),
    "Adobe RGB": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), (0.3127, 0.3290)), 563 / 256),
    "ProPhoto RGB": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585)), 1.8),
}
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290))
D50 = (0.3457, 0.3585)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
JPEG = {"quality": 95, "subsampling": 0}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare masks of photos in wide gamuts."""

    model: str
    """Model bundle."""
    vocabulary: str
    """Vocabulary of the model."""
    shards: tuple[str, ...]
    """Shards of the photos."""
    truth: str
    """Folder or tar of true masks."""
    every: int = 4
    """Use every n-th photo."""


def compute_matrix(chromaticities: tuple[tuple[float, float], ...]) -> Float[np.ndarray, "3 3"]:
    """Matrix from linear RGB to XYZ under D50, the white of profiles."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in chromaticities]).T
    primaries, white = columns[:, :3], columns[:, 3]
    matrix = primaries * np.linalg.solve(primaries, white)
    target = np.array([D50[0] / D50[1], 1.0, (1 - sum(D50)) / D50[1]])
    gains = np.diag((BRADFORD @ target) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ gains @ BRADFORD @ matrix


def make_profile(name: str) -> bytes:
    """Make an ICC profile of a matrix and a tone curve."""
    chromaticities, exponent = GAMUTS[name]
    matrix = compute_matrix(chromaticities)

    def fixed(values: Float[np.ndarray, " n"]) -> bytes:
        return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)

    text = name.encode() + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    white = np.array([D50[0] / D50[1], 1.0, (1 - sum(D50)) / D50[1]])
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": b"XYZ " + bytes(4) + fixed(white)}
    tags |= {b"rgb"[i : i + 1] + b"XYZ": b"XYZ " + bytes(4) + fixed(matrix[:, i]) for i in range(3)}
    tags |= {b"rgb"[i : i + 1] + b"TRC": curve for i in range(3)}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = bytes(4) + bytes(4) + bytes.fromhex("02400000") + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    header = (header + fixed(white)).ljust(128, b"\0")
    profile = header + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def write_in_gamut(image_rgb: UInt8[np.ndarray, "h w 3"], name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Numbers of a wide gamut for the colours of an sRGB image."""
    chromaticities, exponent = GAMUTS[name]
    encoded = image_rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    wide = linear @ (np.linalg.inv(compute_matrix(chromaticities)) @ compute_matrix(SRGB)).T
    return np.rint(255 * np.clip(wide, 0, 1) ** (1 / exponent)).astype(np.uint8)


def encode(image: Image.Image, **options: object) -> bytes:
    """Encode as a JPEG of high quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **JPEG, **options)
    return buffer.getvalue()


def measure_decoding(payload: bytes | memoryview) -> float:
    """Seconds to decode a photo at full size."""
    start = time.perf_counter()
    decode_image(payload, max_pixels=10**8)
    return time.perf_counter() - start


def read_samples(job: Benchmark) -> Iterator[Sample]:
    """Read the samples of the shards."""
    config = InputConfig()
    pieces = (piece for shard in list_shards(job.shards) for piece in read_chunks(shard, config))
    samples = [sample for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples]
    yield from samples[:: job.every]


def make_labeler(job: Benchmark, vocabulary: Vocabulary) -> ChunkLabeler:
    """Make a labeler with the settings of `tagmask label`."""
    model, bundle, _ = load_bundle(job.model)
    return ChunkLabeler(
        model=model,
        bundle=bundle,
        vocabulary=vocabulary,
        config=LabelConfig(),
        device=torch.device("cpu"),
        batch_size=1,
        num_workers=1,
        use_bf16=False,
    )


def label(labeler: ChunkLabeler, sample: Sample, payload: bytes | memoryview) -> UInt8[np.ndarray, "h w"]:
    """Label one photo."""
    row = labeler.label_chunk([Sample(key=sample.key, image=payload, image_name="jpg", tags=sample.tags)]).to_pylist()[
        0
    ]
    return decode_mask(row["mask"]["bytes"])


def score(histogram: Float[np.ndarray, "n n"]) -> float:
    """Mean IoU in percent."""
    both = np.diag(histogram)
    either = histogram.sum(0) + histogram.sum(1) - both
    return float(100 * np.mean(both[either > 0] / either[either > 0]))


def main() -> None:
    """Print a line per gamut and treatment."""
    job = tyro.cli(Benchmark, description=__doc__)
    vocabulary = load_vocabulary(job.vocabulary)
    labeler, find_truth = make_labeler(job, vocabulary), open_truth(job.truth)
    num = len(vocabulary.classes) + 1
    kinds = ["sRGB", "sRGB, encoded again", *(f"{name}, {how}" for name in GAMUTS for how in ("as it is", "converted"))]
    of_truth = {kind: np.zeros((num, num)) for kind in kinds}
    of_photo = {kind: np.zeros((num, num)) for kind in kinds}
    seconds = {"as it is": 0.0, "converted": 0.0}
    num_pixels = 0
    for sample in read_samples(job):
        decoded = decode_image(sample.image or b"", max_pixels=10**8)
        payload = find_truth(sample.key)
        if not isinstance(decoded, DecodedImage) or payload is None:
            continue
        truth = decode_truth(payload, sample.key, decoded.image_rgb.shape[:2], num - 1)
        payloads = {"sRGB": sample.image or b"", "sRGB, encoded again": encode(Image.fromarray(decoded.image_rgb))}
        for name in GAMUTS:
            wide = Image.fromarray(write_in_gamut(decoded.image_rgb, name))
            payloads[f"{name}, as it is"] = encode(wide)
            payloads[f"{name}, converted"] = encode(wide, icc_profile=make_profile(name))
            seconds["as it is"] += measure_decoding(payloads[f"{name}, as it is"])
            seconds["converted"] += measure_decoding(payloads[f"{name}, converted"])
            num_pixels += decoded.image_rgb.size // 3
        masks = {kind: label(labeler, sample, payloads[kind]) for kind in kinds}
        for kind, mask in masks.items():
            for histogram, reference in ((of_truth[kind], truth), (of_photo[kind], masks["sRGB"])):
                known = (reference < num) & (mask < num)
                np.add.at(histogram, (reference[known], mask[known]), 1)
    print(f"{'photo':28} {'mIoU':>6} {'mIoU with the mask of the photo':>32} {'other pixels':>13}")
    for kind in kinds:
        other = 100 * (1 - np.trace(of_photo[kind]) / of_photo[kind].sum())
        print(f"{kind:28} {score(of_truth[kind]):6.2f} {score(of_photo[kind]):32.2f} {other:12.2f}%")
    for how, spent in seconds.items():
        print(f"decoding, {how}: {1e9 * spent / num_pixels:.1f} ns a pixel")


if __name__ == "__main__":
    main()
