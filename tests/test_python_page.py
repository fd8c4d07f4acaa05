"""What docs/ shows of Python runs as it stands: the blocks of the page, and the notebook."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from jobs.execution.demo_photos import CLASSES, write_collection
from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.bundles import load_bundle, save_bundle
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import LabelConfig, ViewConfig
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import load_vocabulary
from tests.factories import make_photo
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
MAX_NOTEBOOK_BYTES = 300_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `tagmask demo` makes, of a model that was not trained, and a photo."""
    made = tmp_path_factory.mktemp("python")
    demo = made / "demo"
    write_collection(demo / "photos", {"photos": 24}, samples_per_shard=16)
    torch.manual_seed(0)
    config = MCTformerConfig(
        variant=Variant.V2, num_classes=len(CLASSES), image_size=32, patch_size=16, width=48, depth=2, num_heads=3
    )
    bundle = ModelBundle(config=config, class_names=CLASSES, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    model_uri = str(demo / "model" / "bundle")
    save_bundle(model_uri, MCTformer(config), bundle)
    run = open_run(
        out_uri=str(demo / "masks"),
        model_uri=model_uri,
        model_digest=load_bundle(model_uri)[2],
        vocabulary=load_vocabulary(str(demo / "photos" / "vocabulary.json")),
        config=LabelConfig(views=ViewConfig(num_patches=36)),
        shards=list_shards([f"{demo}/photos/photos-*.tar"]),
    )
    label_run(run, replace(OPTIONS, max_rejected_fraction=1.0), cluster=SerialCluster())
    (made / "photo.jpg").write_bytes(make_photo(1))
    return made


def test_page_has_blocks() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_of_the_page_runs(folder: Path, block: str) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{block}"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("24 ('background', 'ladybug', 'fish', 'tree', 'mushroom')" in text for text in texts)
    assert any("did you mean 'ladybug'" in text for text in texts)


def test_stored_notebook_shows_pictures_is_small_and_names_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert NOTEBOOK.stat().st_size < MAX_NOTEBOOK_BYTES
    texts = json.dumps([output.get("text") or output.get("data", {}).get("text/plain") for output in outputs])
    assert not re.search(r"/(home|work|tmp|root|Users)/", texts)
