"""The audit measures images by itself, and agrees with the decoder."""

import hashlib
from collections.abc import Callable, Iterable

import pytest
from PIL import Image

from pipeline.audit.archives.images import check_image
from pipeline.audit.archives.samples import WalkedImage
from pipeline.images.decode import DecodedImage, decode_image
from tests.images.encoded.test_avif import UNITS, write_avif
from tests.images.encoded.test_parts import (
    CHUNKS,
    JPEG,
    PICTURE,
    PNG,
    RIFF_CHUNKS,
    SEGMENTS,
    TIFF_ENTRIES,
    WEBP,
)
from tests.images.encoded.written_images import (
    encode,
    make_chunk,
    make_exif_block,
    make_riff_chunk,
    make_segment,
    make_tiff,
    make_webp,
    put_chunks,
    put_segments,
)
from tests.images.test_file_orientation import WRITERS


def find_faults(payload: bytes, width: int, height: int, orientation: int) -> list[str]:
    digest = hashlib.sha256(payload).hexdigest()
    row = {
        "image_sha256": digest,
        "status": "labelled",
        "width": width,
        "height": height,
        "exif_orientation": orientation,
    }
    return list(check_image(row, WalkedImage(sha256=digest, head=payload, is_whole=True)))


def list_payloads() -> Iterable[tuple[str, bytes]]:
    exif = make_exif_block(6)
    for kind, chunk in CHUNKS.items():
        yield f"PNG with {kind}", put_chunks(PNG, [chunk])
        yield f"PNG with {kind} and EXIF", put_chunks(PNG, [chunk, make_chunk(b"eXIf", exif)], at_end=True)
    for kind, segment in SEGMENTS.items():
        yield f"JPEG with {kind}", put_segments(JPEG, segment)
        yield f"JPEG with EXIF and {kind}", put_segments(JPEG, make_segment(0xE1, b"Exif\0\0" + exif), segment)
    for kind, chunk in RIFF_CHUNKS.items():
        yield f"WebP with {kind}", make_webp(WEBP, [], [make_riff_chunk(b"EXIF", exif), chunk], flags=0x2C)
    for kind, entry in TIFF_ENTRIES.items():
        yield f"TIFF with {kind}", make_tiff(PICTURE, [entry, (274, 3, 1, 6)])
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        yield f"plain {image_format}", encode(PICTURE, image_format)
    yield "AVIF by another writer", write_avif(UNITS, 1000, 800)


@pytest.mark.parametrize(("kind", "payload"), [pytest.param(*pair, id=pair[0]) for pair in list_payloads()])
def test_audit_measures_what_the_decoder_measures(kind: str, payload: bytes) -> None:
    decoded = decode_image(payload, max_pixels=10**6)
    assert isinstance(decoded, DecodedImage), kind
    size = decoded.stored_width, decoded.stored_height
    assert find_faults(payload, *size, decoded.exif_orientation) == []
    assert "its image" in find_faults(payload, size[0] + 1, size[1], decoded.exif_orientation)[0]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("orientation", [None, 8])
def test_audit_knows_the_orientation_of_exif_and_none_of_xmp(
    write: Callable[[bytes | None], bytes], orientation: int | None
) -> None:
    payload = write(make_exif_block(orientation))
    assert find_faults(payload, 36, 24, orientation or 1) == []
    assert "in orientation 6, its image 36 x 24" in find_faults(payload, 36, 24, 6)[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_audit_measures_turned_images_as_stored(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = encode(PICTURE, image_format, exif=exif)
    assert find_faults(payload, 36, 24, orientation) == []
    assert find_faults(payload, 36, 24, 9 - orientation) != []


def test_exif_behind_the_kept_bytes_is_not_compared() -> None:
    payload = put_chunks(PNG, [make_chunk(b"eXIf", make_exif_block(6))], at_end=True)
    row = {"image_sha256": "x", "status": "labelled", "width": 36, "height": 24, "exif_orientation": 6}
    assert list(check_image(row, WalkedImage(sha256="x", head=payload[:80], is_whole=False))) == []


def test_image_whose_header_pillow_refuses_is_a_fault_of_its_row() -> None:
    payload = encode(PICTURE, "BMP")[:20]
    (fault,) = find_faults(payload, 64, 48, 1)
    assert fault.startswith("has 64 x 48 pixels, its image cannot be opened: ")


def test_image_of_which_only_the_head_was_kept_may_lack_its_header() -> None:
    head = encode(PICTURE, "TIFF")[:8]
    row = {"image_sha256": "x", "status": "labelled", "width": 64, "height": 48, "exif_orientation": 1}
    assert list(check_image(row, WalkedImage(sha256="x", head=head, is_whole=False))) == []
