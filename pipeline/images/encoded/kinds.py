"""What bytes are that cannot be decoded: a JPEG of 12 bits, a web page, a pointer of Git LFS.

The libraries for this (`filetype`, `puremagic`) compare first bytes, too. They name neither the coding of a JPEG nor
what downloads leave in place of images, and their words differ by version. Here equal bytes get equal words.
"""

import re

from pipeline.images.encoded.boxes import list_brands
from pipeline.images.encoded.jpeg_parts import find_jpeg_frame
from pipeline.printable import escape_controls

SHOWN_CHARACTERS = 40
"""Of a text that stands in place of an image."""
MAX_READ_BYTES = 4096

_SIGNATURES = (
    # Images.
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"II\xbc\x01", "a JPEG XR"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"gimp xcf", "a GIMP document (XCF)"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"DDS ", "a DirectDraw surface (DDS)"),
    (b"qoif", "a QOI image"),
    (b"BPG\xfb", "a BPG image"),
    (b"FLIF", "a FLIF image"),
    (b"AT&TFORM", "a DjVu document"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    # Without a colour map. A cursor has the number of its images there.
    (b"\0\0\x02\0\0\0\0\0", "a Targa image (TGA)"),
    (b"\0\0\x0a\0\0\0\0\0", "a Targa image (TGA)"),
    (b"\0\0\x02\0", "a cursor (CUR)"),
    (b"\xabKTX ", "a GPU texture (KTX)"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (b"\x8aMNG\r\n\x1a\n", "an MNG animation"),
    (b"\x8bJNG\r\n\x1a\n", "a JNG image"),
    (b"SIMPLE  =", "a FITS image"),
    # Raw files of cameras.
    (b"II*\0\x10\0\0\0CR", "a raw file of a Canon camera (CR2)"),
    (b"IIRO", "a raw file of an Olympus camera (ORF)"),
    (b"IIRS", "a raw file of an Olympus camera (ORF)"),
    (b"MMOR", "a raw file of an Olympus camera (ORF)"),
    (b"IIU\0", "a raw file of a Panasonic camera (RW2)"),
    (b"FUJIFILMCCD-RAW", "a raw file of a Fujifilm camera (RAF)"),
    (b"FOVb", "a raw file of a Sigma camera (X3F)"),
    (b"\0MRM", "a raw file of a Minolta camera (MRW)"),
    # Documents, archives, videos, sound.
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"FLV\x01", "a Flash video"),
    (b"\0\0\x01\xba", "an MPEG video"),
    (b"\0\0\x01\xb3", "an MPEG video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"\x7fELF", "an executable file"),
    # What is left in place of a file.
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS, without the file (git lfs pull fetches it)"),
    (b"/annex/objects/", "a pointer of git-annex, without the file (git annex get fetches it)"),
    (b"data:image/", "a data URL, not the bytes in it"),
    (b"/9j/", "base64 text of an image, not its bytes"),
    (b"iVBORw0KGgo", "base64 text of an image, not its bytes"),
    (b"UklGR", "base64 text of an image, not its bytes"),
)
_HEIF = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"})
_RIFF = {b"AVI ": "an AVI video", b"WAVE": "a WAV sound"}
_READABLE = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)


def name_foreign(payload: bytes) -> str:
    """Name bytes that are no image of a readable kind, such as "a JPEG XL"; empty if they may be one, or unknown."""
    if not payload:
        return "empty"
    if payload.startswith(b"\xff\xd8"):
        return _name_jpeg(payload)
    if found := next((name for start, name in _SIGNATURES if payload.startswith(start)), ""):
        return found
    if name_readable(payload):
        return "a PNG in the form of Apple's tools (CgBI)" if payload[12:16] == b"CgBI" else ""
    if not payload.strip(b"\0"):
        return f"{len(payload)} zero bytes"
    if payload[4:8] == b"ftyp":
        return _name_boxes(payload)
    if payload[:4] == b"RIFF":
        return _RIFF.get(payload[8:12], "")
    if payload[257:262] == b"ustar":
        return "a tar archive"
    if payload[128:132] == b"DICM":
        return "a DICOM file"
    if re.match(rb"P[1-7]\s", payload):
        return "a PNM image (PBM, PGM, PPM)"
    return _name_text(payload)


def name_readable(payload: bytes) -> str:
    """Name the format of an image by its first bytes; empty if it is none of those that are read."""
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return "WebP"
    if payload[4:8] == b"ftyp":
        return "AVIF" if {b"avif", b"avis"} & set(list_brands(payload)) else ""
    return next((name for start, name in _READABLE if payload.startswith(start)), "")


def _name_jpeg(payload: bytes) -> str:
    """Name a JPEG that is not coded as those of cameras and browsers; empty for others."""
    frame = find_jpeg_frame(payload)
    if frame is None:
        return ""
    marker, num_bits, num_channels = frame
    kind = marker - 0xC0
    coding = (
        "JPEG-LS"
        if marker == 0xF7
        else f"lossless JPEG (SOF{kind})"
        if kind in (3, 7, 11, 15)
        else f"hierarchical JPEG (SOF{kind})"
        if kind in (5, 6, 13, 14)
        else f"JPEG in arithmetic coding (SOF{kind})"
        if kind in (9, 10)
        else "JPEG"
    )
    if num_bits != 8:
        return f"a {coding} of {num_bits} bits a sample"
    if num_channels not in (1, 3, 4):
        return f"a {coding} of {num_channels} channels"
    return "" if coding == "JPEG" else f"a {coding}"


def _name_boxes(payload: bytes) -> str:
    brands = list_brands(payload)
    if _HEIF & set(brands):
        return "a HEIC/HEIF image"
    if brands[0] == b"crx ":
        return "a raw file of a Canon camera (CR3)"
    return "a QuickTime video" if brands[0] == b"qt  " else "an MP4 video"


def _name_text(payload: bytes) -> str:
    start = payload[:MAX_READ_BYTES]
    try:
        # The last character may be cut.
        text = start.decode("utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4 or len(start) < MAX_READ_BYTES:
            return ""
        text = start[: error.start].decode("utf-8-sig", errors="replace")
    if any(not (character.isprintable() or character.isspace()) for character in text):
        return ""
    stripped = text.strip().lower()
    if re.match(r"<!doctype html|<html|<head|<body", stripped) or ("<html" in stripped and stripped.startswith("<")):
        return "a web page (HTML)"
    if stripped.startswith("<") and "<svg" in stripped:
        return "an SVG drawing"
    shown = escape_controls(" ".join(text.split())[:SHOWN_CHARACTERS])
    kind = "an XML document" if stripped.startswith("<?xml") else "JSON" if stripped[:1] in ("{", "[") else "a text"
    return f"{kind} that begins with '{shown}'" if shown else "white space"
