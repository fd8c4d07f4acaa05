"""The run that new masks of kept maps belong to."""

from dataclasses import replace

from pipeline.bundles import load_bundle
from pipeline.errors import BundleError
from pipeline.kept_maps.run import KeptRun
from pipeline.run.config import LabelConfig, MapConfig, PixelRefinement
from pipeline.run.identity import Run, open_run


def open_remask(out_uri: str, kept: KeptRun, maps: MapConfig, *, writes: bool = True) -> Run:
    """Open a run that makes new masks of the kept maps of another run. A second call resumes it.

    Its shards are those whose manifests existed at its start. Its manifests name the images as inputs, as those of the
    first run do, so every reader of a labelling run can read it.

    Args:
        out_uri: Output folder.
        kept: The run with the maps.
        maps: How masks are made of them. The settings that made the maps are those of `kept`.
        writes: Whether the folder may be created.

    Raises:
        ValueError: The output is the source, or there are scales for another number of classes.
        RunConflictError: The folder belongs to another run; the message names what differs.
        BundleError: Pixels refine the maps, and the model that made them is not there.
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
    )


def find_patch_size(kept: KeptRun, config: LabelConfig) -> int | None:
    """Patch size of the model in pixels: the size at which pixels refine maps depends on it.

    None if pixels do not refine the maps; then no model is loaded.

    Raises:
        BundleError: The model is gone, or another one.
    """
    if config.maps.pixel_refinement == PixelRefinement.NONE:
        return None
    try:
        model, _, digest = load_bundle(kept.model_uri)
        if digest != kept.model_digest:
            raise BundleError(f"bundle '{kept.model_uri}' is not the model that made the kept maps")
    except BundleError as error:
        raise BundleError(
            f"{error}; refining kept maps by pixels needs to know its patches, so put it back, or make masks without "
            "(tagmask remask with --maps.pixel-refinement none)"
        ) from error
    return model.config.patch_size
