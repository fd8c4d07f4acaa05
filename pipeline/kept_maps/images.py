"""Images of labelled rows, which refine their kept maps."""

from collections.abc import Collection, Iterator

from pipeline.commit.manifests import Manifest
from pipeline.errors import ShardError
from pipeline.published.chunk_images import read_chunk_images
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard, Status

ADVICE = (
    "kept maps are refined by the pixels of the images that were labelled, so put the shard back as it was; or make "
    "masks without them, by tagmask remask with --maps.pixel-refinement none"
)


def read_images(
    shard: InputShard, config: InputConfig, manifest: Manifest, wanted: Collection[int]
) -> Iterator[tuple[int, list[bytes | None]]]:
    """Read the images of the labelled rows of some chunks, as `read_chunk_images`; None for a row that is rejected.

    Raises:
        ShardError: The shard is gone or changed, or holds other samples than the manifest.
    """
    try:
        yield from read_chunk_images(shard, config, manifest, wanted, (Status.LABELLED,))
    except ShardError as error:
        raise ShardError(f"{error}; {ADVICE}") from error
