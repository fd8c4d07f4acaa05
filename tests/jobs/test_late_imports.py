"""A finished run answers without PyTorch and Ray, each of which takes seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

from tests.factories import make_photo, make_tar, save_small_model

ROOT = Path(__file__).parents[2]


def test_label_and_its_repetition_import_neither_torch_nor_ray_in_the_driver(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"p": {"jpg": make_photo(1), "json": json.dumps({"tags": ["cat"]}).encode()}})
    (tmp_path / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    save_small_model(str(tmp_path / "model"))
    arguments = [
        *("--shards", f"{tmp_path}/a.tar", "--vocabulary", f"{tmp_path}/vocabulary.json"),
        *("--model", f"{tmp_path}/model", "--out", f"{tmp_path}/out", "--views.num-patches", "16"),
        *("--cluster", "local", "--gpus-per-worker", "0"),
    ]
    program = (
        "import sys\n"
        "from jobs.label import main\n"
        f"code = main({arguments!r})\n"
        "assert not {'torch', 'ray', 'timm'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    for expected in ("published 1 shards", "nothing to do"):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
