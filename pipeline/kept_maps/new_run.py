"""Opening of a run that makes new masks from kept maps."""

from dataclasses import replace

from pipeline.bundles import describe_bundle
from pipeline.errors import BundleError
from pipeline.kept_maps.kept_run import KeptRun
from pipeline.run.config import LabelConfig, MapConfig, PixelRefinement
from pipeline.run.run_file import Run, open_run


def open_remask(out_uri: str, kept: KeptRun, maps: MapConfig, *, writes: bool = True, extend: bool = False) -> Run:
    """Open a run that makes new masks from the kept maps of another run. A second call resumes it.

    Its shards are those whose manifests existed at its start, and those of its extensions. Its manifests name the
    images as inputs, as those of the first run do, so every reader of a labelling run can read it.

    Args:
        out_uri: Output folder.
        kept: The run with the maps.
        maps: Settings of the new masks. The settings that made the maps are those of `kept`.
        writes: Whether the folder may be created.
        extend: True to add the shards that were published since its start.

    Raises:
        ValueError: The output is the source, or there are scales for another number of classes.
        RunConflictError: The folder belongs to another run; the message names what differs.
        BundleError: Pixels refine the maps, and the model that made them is missing.
    """
    if out_uri.rstrip("/") == kept.source.labels_uri.rstrip("/"):
        raise ValueError(f"need another --out than --labels, got '{out_uri}' for both")
    config = replace(kept.config, maps=maps)
    return open_run(
        out_uri=out_uri,
        model_uri=kept.model_uri,
        model_digest=kept.model_digest,
        vocabulary=kept.vocabulary,
        config=config,
        shards=kept.shards,
        source=replace(kept.source, patch_size=find_patch_size(kept, config)),
        writes=writes,
        extend=extend,
    )


def find_patch_size(kept: KeptRun, config: LabelConfig) -> int | None:
    """Patch size of the model in pixels: the size at which pixels refine maps depends on it.

    None if pixels do not refine the maps; then no model is loaded.

    Raises:
        BundleError: The model is missing or has changed.
    """
    if config.maps.pixel_refinement == PixelRefinement.NONE:
        return None
    try:
        bundle, digest = describe_bundle(kept.model_uri)
        if digest != kept.model_digest:
            raise BundleError(f"bundle '{kept.model_uri}' is not the model that made the kept maps")
    except BundleError as error:
        raise BundleError(
            f"{error}; pixel refinement of kept maps needs its patch size, so put it back, or make masks without it "
            "(tagmask remask with --maps.pixel-refinement none)"
        ) from error
    return bundle.config.patch_size
