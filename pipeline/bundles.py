"""Model bundles at any URI: a directory with `model.safetensors` and `model.json`."""

from typing import TYPE_CHECKING

from models.description import ModelBundle, compute_digest, parse_description
from models.documents import CheckpointError
from pipeline.errors import BundleError
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic

if TYPE_CHECKING:
    # PyTorch takes seconds, which the driver of a run does not wait for: its workers load the weights.
    from models.mctformer import MCTformer

BUNDLE_FILES = ("model.safetensors", "model.json")
"""In writing order: a bundle exists once `model.json` does."""


def save_bundle(bundle_uri: str, model: "MCTformer", bundle: ModelBundle) -> str:
    """Write a model as a bundle and return its digest.

    Raises:
        BundleError: A weight is non-finite.
    """
    from models.bundle import encode_bundle

    try:
        files = encode_bundle(model, bundle)
    except CheckpointError as error:
        raise BundleError(f"bundle '{bundle_uri}' is not written: {error}") from error
    for name in BUNDLE_FILES:
        put_atomic(join_uri(bundle_uri, name), files[name])
    return compute_digest(files)


def describe_bundle(bundle_uri: str) -> tuple[ModelBundle, str]:
    """Read the description and the digest of a bundle; the weights are hashed and not loaded.

    Raises:
        BundleError: The directory is not a bundle, or its description is damaged.
    """
    files = _read_files(bundle_uri)
    try:
        return parse_description(files["model.json"]), compute_digest(files)
    except CheckpointError as error:
        raise BundleError(f"bundle '{bundle_uri}': {error}") from error


def load_bundle(bundle_uri: str) -> "tuple[MCTformer, ModelBundle, str]":
    """Load a bundle: model in evaluation mode, description, and digest.

    Raises:
        BundleError: The directory is not a bundle, or its files do not match each other.
    """
    from models.bundle import decode_bundle

    files = _read_files(bundle_uri)
    try:
        model, bundle = decode_bundle(files)
    except CheckpointError as error:
        raise BundleError(f"bundle '{bundle_uri}': {error}") from error
    return model, bundle, compute_digest(files)


def _read_files(bundle_uri: str) -> dict[str, bytes]:
    try:
        return {name: read_bytes(join_uri(bundle_uri, name)) for name in BUNDLE_FILES}
    except FileNotFoundError as error:
        raise BundleError(
            f"'{bundle_uri}' is no model bundle: it needs {' and '.join(BUNDLE_FILES)}; "
            "give the folder that tagmask train or tagmask import-checkpoint wrote"
        ) from error


def require_same_classes(bundle: ModelBundle, vocabulary: Vocabulary) -> None:
    """Check that class i of the model is class i of the vocabulary.

    Raises:
        BundleError: They differ in names or order.
    """
    if tuple(bundle.class_names) == tuple(vocabulary.classes):
        return
    only_model = [name for name in bundle.class_names if name not in vocabulary.classes]
    only_vocabulary = [name for name in vocabulary.classes if name not in bundle.class_names]
    if only_model or only_vocabulary:
        difference = f"only in the model: {only_model}, only in the vocabulary: {only_vocabulary}"
    else:
        difference = f"same names, other order: model {list(bundle.class_names)}"
    raise BundleError(
        f"classes of the model and of the vocabulary differ ({difference}); "
        "label with the vocabulary that the model was trained on"
    )
