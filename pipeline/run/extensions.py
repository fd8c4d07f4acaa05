"""Shards added to a run that stands: a chain of files beside `run.json`, each created once and never changed.

`run.json` stays as it is, and so do fingerprint, names and manifests of the shards that it lists. Each extension
contains the digest of the record before it, so an edited, foreign or missing link is found.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from models.documents import STRICT, DocumentError, check_fields, parse_json
from pipeline.errors import GrowthConflictError, ManifestError, RunConflictError
from pipeline.run.fingerprint import compute_fingerprint, get_library_version, hash_uri, to_canonical_json
from pipeline.run.records import INDEX_PREFIX
from pipeline.storage.listing import UNKNOWN_ETAG, list_folder
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent

EXTENSIONS_FOLDER = "extensions"
MAX_RUN_BYTES = 2**31
"""Maximum size of a record; 10 million shards take less."""
NUM_THREADS = 16

_Size = Annotated[int, Field(ge=0)]
_FolderName = Annotated[str, Field(pattern=r"^[^/\x00]+$")]
RecordedInput = tuple[str, _FolderName, _Size, str]
"""URI, name, size in bytes and etag."""


@with_config(STRICT)
class Extension(TypedDict):
    """Fields of a file of an extension."""

    fingerprint: str
    """Of the run, as in its run.json."""
    previous_sha256: str
    """Digest of the record before it: of run.json, or of the extension with the number before."""
    inputs: Annotated[list[RecordedInput], Field(min_length=1)]
    """The added shards."""
    manifests: NotRequired[list[RecordedInput]]
    """Their manifests in the source, in a run that makes masks of kept maps."""
    library_version: str
    record_sha256: str
    """Digest of the other fields."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Inputs that a run has in addition to those of its run.json."""

    inputs: list[list[Any]] = field(default_factory=list)
    """Each with URI, name, size in bytes and etag."""
    manifests: list[list[Any]] = field(default_factory=list)
    """Their manifests in the source, likewise; empty for a run that labels images."""
    num_extensions: int = 0
    last_sha256: str = ""
    """Digest of the last extension; empty if there is none."""


def read_growth(out_uri: str, record: Mapping[str, Any]) -> Growth:
    """Read the extensions of a run and check their chain.

    Args:
        out_uri: Output folder.
        record: Content of its run.json.

    Raises:
        ManifestError: An extension is missing, damaged, edited, or of another run.
    """
    folder_uri = join_uri(out_uri, EXTENSIONS_FOLDER)
    uris = [item.uri for item in list_folder(folder_uri)]
    expected = [_locate(out_uri, number) for number in range(1, len(uris) + 1)]
    if foreign := [uri for uri in uris if not re.search(r"/\d{6}\.json$", uri)]:
        raise ManifestError(f"'{foreign[0]}' is not the record of an extension; move it to another folder")
    if missing := [uri for uri in expected if uri not in uris]:
        raise ManifestError(f"extension '{missing[0]}' is missing, and '{uris[-1]}' follows it; put it back")
    if not uris:
        return Growth()
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        extensions = list(threads.map(_read_extension, uris))
    previous = _compute_digest(record)
    seen = {entry[0] for entry in record["inputs"]}
    names = {entry[1].casefold() for entry in record["inputs"]}
    for uri, extension in zip(uris, extensions, strict=True):
        _require_next(uri, extension, record, previous)
        for added_uri, name, *_ in extension["inputs"]:
            if added_uri in seen or name.casefold() in names:
                raise ManifestError(f"'{uri}' adds shard '{added_uri}', whose URI or name the run already has")
            seen.add(added_uri)
            names.add(name.casefold())
        previous = extension["record_sha256"]
    return Growth(
        inputs=[entry for extension in extensions for entry in extension["inputs"]],
        manifests=[entry for extension in extensions for entry in extension.get("manifests", [])],
        num_extensions=len(extensions),
        last_sha256=previous,
    )


def create_extension(out_uri: str, record: Mapping[str, Any], before: Growth, added: Growth) -> bool:
    """Add inputs to a run, unless another driver adds some at the same time.

    Args:
        out_uri: Output folder.
        record: Content of its run.json.
        before: Its growth so far.
        added: The new inputs.

    Returns:
        False if the next extension exists: read it, and compare again. It may be our own, when the reply to the write
        is lost.
    """
    fields: dict[str, Any] = {
        "fingerprint": record["fingerprint"],
        "previous_sha256": before.last_sha256 or _compute_digest(record),
        "inputs": added.inputs,
        "library_version": get_library_version(),
    }
    if added.manifests:
        fields["manifests"] = added.manifests
    fields["record_sha256"] = compute_fingerprint(fields)
    return create_if_absent(_locate(out_uri, before.num_extensions + 1), to_canonical_json(fields).encode())


def merge_inputs(
    recorded: Sequence[Sequence[Any]], listed: Sequence[Sequence[Any]]
) -> tuple[list[Sequence[Any]], list[Sequence[Any]]]:
    """Compare the recorded inputs with a listing by URI.

    Returns:
        The recorded inputs as the listing shows them, in the order of the record and under its names; unlisted ones as
        recorded. And the listed inputs that are not in the record, in the order of the listing.
    """
    if recorded == listed:
        return list(recorded), []
    found = {entry[0]: entry for entry in listed}
    known = {entry[0] for entry in recorded}
    present = [[*entry[:2], *found[entry[0]][2:]] if entry[0] in found else entry for entry in recorded]
    return present, [entry for entry in listed if entry[0] not in known]


def list_input_differences(before: list[list[Any]], after: list[list[Any]], most: int = 5) -> list[str]:
    """Compare inputs by URI; their order and their names in the run make no difference."""
    if before == after:
        return []
    old, new = ({entry[0]: entry[2:] for entry in entries} for entries in (before, after))
    changed = [
        f"shard '{uri}' changed (was {old[uri][0]} bytes, etag {old[uri][1]}; "
        f"is {new[uri][0]} bytes, etag {new[uri][1]})"
        for uri in old
        if uri in new and old[uri] != new[uri]
    ]
    gone = [f"shard '{uri}' is no longer among the inputs" for uri in old if uri not in new]
    added = [f"shard '{uri}' was not among the inputs" for uri in new if uri not in old]
    differences = changed + gone + added
    if len(differences) > most:
        differences = [*differences[:most], f"and {len(differences) - most} more shards"]
    return differences


def require_allowed(
    out_uri: str,
    recorded: Sequence[Sequence[Any]],
    unknown: Sequence[Sequence[Any]],
    listed: list[list[Any]],
    *,
    extend: bool,
    is_remask: bool,
) -> None:
    """Check that the listed shards of a run are those of its record, or may differ from them.

    Args:
        out_uri: Output folder.
        recorded: Shards of the run.
        unknown: Listed shards that it does not have.
        listed: All listed shards.
        extend: Whether shards may be added.
        is_remask: Whether its masks are made of kept maps.

    Raises:
        RunConflictError: They may not, or are index shards at another place.
        GrowthConflictError: They are those of a collection, which another driver listed at the same time.
    """
    gone = len(recorded) + len(unknown) - len(listed)
    places, found = ([entry[0].rpartition("/")[0] for entry in of if _is_index(entry)] for of in (recorded, listed))
    if found and places and not is_remask and found[0] != places[0]:
        raise RunConflictError(
            f"the run in '{out_uri}' has its index in '{places[0]}', and this command finds it in '{found[0]}'; "
            "give --out as it was given first, or another one"
        )
    # What this driver found to be new was compared with the rows of other index shards.
    if places and not is_remask and (gone or (unknown and not extend)):
        raise GrowthConflictError(
            f"another driver listed the collection of '{out_uri}' at the same time; run the same command again"
        )
    if unknown and not extend:
        raise RunConflictError(
            f"the run in '{out_uri}' has {len(recorded)} shards and lacks {len(unknown)} that this command lists, "
            f"such as '{unknown[0][0]}'; add --extend to take them into the run, or give another --out"
        )
    if gone:
        differences = "; ".join(list_input_differences(list(map(list, recorded)), listed))
        # Masks of kept maps are made of all published shards, so there a missing one is gone.
        if is_remask:
            raise RunConflictError(f"'{out_uri}' holds another run: {differences}; give another --out")
        if not extend:
            raise RunConflictError(
                f"the run in '{out_uri}' has {len(recorded)} shards, of which this command lacks {gone}: "
                f"{differences}; name them as before, add --extend to keep them unnamed, or give another --out"
            )
    if copy := find_copy(recorded, unknown, listed):
        raise RunConflictError(
            f"shard '{copy[0]}' has the file name, size and etag of '{copy[1]}' of the run, so --extend would label "
            "its images twice; name it as before, or name both if both belong to the run"
        )


def _is_index(entry: Sequence[Any]) -> bool:
    return bool(entry[1].startswith(INDEX_PREFIX))


def find_copy(
    recorded: Sequence[Sequence[Any]], added: Sequence[Sequence[Any]], listed: Sequence[Sequence[Any]]
) -> tuple[str, str] | None:
    """Find an added input that looks like a recorded one under another URI: file name, size and etag are equal.

    A recorded input that is listed, too, does not count: then both are meant.

    Returns:
        URI of the added and of the recorded input; None if there are none.
    """
    named = {entry[0] for entry in listed}
    known = {_describe_content(entry): entry[0] for entry in recorded if entry[0] not in named}
    found = ((entry[0], known.get(_describe_content(entry))) for entry in added if entry[3] not in ("", UNKNOWN_ETAG))
    return next(((uri, twin) for uri, twin in found if twin is not None), None)


def _describe_content(entry: Sequence[Any]) -> tuple[Any, ...]:
    return entry[0].rpartition("/")[2], *entry[2:]


def name_added(recorded: Sequence[Sequence[Any]], added: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Give added inputs names that no recorded input has; case does not count, as in some file systems."""
    names = {entry[1].casefold() for entry in recorded}
    named = []
    for uri, listed_name, *rest in added:
        name = listed_name
        while name.casefold() in names:
            name = f"{name}-{hash_uri(uri)}"
        names.add(name.casefold())
        named.append([uri, name, *rest])
    return named


def _locate(out_uri: str, number: int) -> str:
    return join_uri(out_uri, EXTENSIONS_FOLDER, f"{number:06d}.json")


def _read_extension(uri: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = parse_json(read_bytes(uri), max_bytes=MAX_RUN_BYTES)
        check_fields(Extension, fields)
    except DocumentError as error:
        raise ManifestError(f"'{uri}' is not the record of an extension: {error}; was it edited?") from error
    return fields


def _require_next(uri: str, extension: Mapping[str, Any], record: Mapping[str, Any], previous: str) -> None:
    if extension["record_sha256"] != _compute_digest(extension):
        raise ManifestError(f"'{uri}' was edited: its record_sha256 is not that of its content; put the original back")
    if extension["fingerprint"] != record["fingerprint"]:
        raise ManifestError(f"'{uri}' extends another run, of fingerprint {extension['fingerprint']}; remove it")
    if extension["previous_sha256"] != previous:
        raise ManifestError(
            f"'{uri}' follows another record than the one before it, whose digest is {previous}; put both back as they "
            "were written"
        )
    if len(extension.get("manifests", [])) != (len(extension["inputs"]) if record.get("source") else 0):
        raise ManifestError(f"'{uri}' adds {len(extension['inputs'])} shards and another number of manifests")


def _compute_digest(record: Mapping[str, Any]) -> str:
    """Digest of a record without the digest that it contains; versions before that field have the same one."""
    return compute_fingerprint({name: value for name, value in record.items() if name != "record_sha256"})
