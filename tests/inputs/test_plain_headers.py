"""Headers that are parsed without `tarfile`: what is returned is what `tarfile` returns."""

import tarfile

import pytest

from pipeline.inputs.tar.plain_headers import parse_plain_header

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT)


def make_header(name: str = "a/000000001.jpg", tar_format: int = tarfile.USTAR_FORMAT, **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tar_format)  # type: ignore[arg-type]


def describe(member: tarfile.TarInfo) -> tuple[object, ...]:
    return (member.name, member.size, member.type, member.linkname, member.sparse, member.pax_headers)


@pytest.mark.parametrize("tar_format", FORMATS)
def test_header_of_an_ordinary_file_is_parsed(tar_format: int) -> None:
    block = make_header(tar_format=tar_format, size=54_321, uname="me", uid=1000, mode=0o755, mtime=1_700_000_000)
    member = parse_plain_header(block)
    assert member is not None
    assert describe(member) == describe(tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace"))
    assert (member.name, member.size) == ("a/000000001.jpg", 54_321)


@pytest.mark.parametrize(
    "block",
    [
        make_header("é.jpg"),
        make_header("x/" * 60 + "a.jpg"),
        make_header("a" * 100),
        make_header(type=tarfile.DIRTYPE),
        make_header(type=tarfile.LNKTYPE, linkname="b.jpg"),
        make_header(type=tarfile.XHDTYPE),
        make_header(type=tarfile.GNUTYPE_LONGNAME),
        make_header(tar_format=tarfile.GNU_FORMAT, size=2**40),
        make_header()[:416],
        bytes(512),
        b"",
    ],
)
def test_other_headers_are_left_to_tarfile(block: bytes) -> None:
    assert parse_plain_header(block) is None


@pytest.mark.parametrize("tar_format", FORMATS)
@pytest.mark.parametrize("is_summed", [True, False])
@pytest.mark.parametrize("byte", [0, 1, ord(" "), ord("0"), ord("7"), ord("8"), ord("a"), 0x7F, 0x80, 0xFF])
def test_header_damaged_anywhere_is_parsed_as_by_tarfile_or_left_to_it(
    byte: int, is_summed: bool, tar_format: int
) -> None:
    for place in range(tarfile.BLOCKSIZE):
        block = bytearray(make_header(size=7, uname="me", tar_format=tar_format))
        block[place] = byte
        if is_summed:
            block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]  # type: ignore[attr-defined]
        found = parse_plain_header(bytes(block))
        if found is not None:
            expected = describe(tarfile.TarInfo.frombuf(bytes(block), "utf-8", "backslashreplace"))
            assert describe(found) == expected, place
