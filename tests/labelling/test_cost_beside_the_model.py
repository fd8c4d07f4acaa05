"""CPU time of labelling beside the model, as a multiple of decoding the same photos with Pillow."""

import subprocess
import sys

MEASURE = """
import io, time
import torch
from PIL import Image
from benchmarks.gpu_parts.labelling import make_photos
from benchmarks.gpu_parts.machine import NUM_CLASSES
from benchmarks.recalling_mapper import RecallingLabeler
from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from jobs.qualities import QUALITIES
from pipeline.run.vocabulary import parse_vocabulary

torch.set_num_threads(1)
torch.manual_seed(0)
photos = make_photos(12)
names = tuple(f"c{number}" for number in range(NUM_CLASSES))
config = MCTformerConfig(variant=Variant.V2, num_classes=NUM_CLASSES, width=48, depth=4, num_heads=3)
labeler = RecallingLabeler(
    model=MCTformer(config).eval(),
    bundle=ModelBundle(config=config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3),
    vocabulary=parse_vocabulary({"classes": list(names)}),
    config=QUALITIES["balanced"](),
    device=torch.device("cpu"),
    batch_size=1,
    num_workers=1,
    use_bf16=False,
)

def measure(work):
    found = []
    for _ in range(7):
        started_s = time.process_time()
        work()
        found.append(time.process_time() - started_s)
    return min(found)

assert set(labeler.label_chunk(photos)["status"].to_pylist()) == {"labelled"}
beside_s = measure(lambda: labeler.label_chunk(photos))
pillow_s = measure(lambda: [Image.open(io.BytesIO(photo.image)).convert("RGB") for photo in photos])
print(beside_s / pillow_s)
"""


def test_labelling_beside_the_model_costs_a_few_times_what_decoding_costs() -> None:
    # In a process of its own, because types are checked at run time in this one. The ratio of two CPU times hardly
    # depends on the machine: it is about 2.1, and was above 5 when every map was drawn at the size of the image.
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 3
