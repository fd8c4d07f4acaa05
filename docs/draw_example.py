"""Draw docs/example.png, the picture of the README, from the output of `make demo`.

python docs/draw_example.py demo/masks demo/photos photos00104 docs/example.png
"""

import base64
import io
import json
import sys
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.evaluation.truth import open_truth
from pipeline.reports.examples import ExampleMaker
from pipeline.run.run_file import read_config, read_run
from pipeline.run.vocabulary import parse_vocabulary

PANEL_PX = (240, 180)
MARGIN_PX = 6
CAPTION_PX = 26
NUM_COLOURS = 160


def draw_example(masks: str, photos: Path, key: str, out: Path) -> None:
    """Draw one photo beside its class maps, its mask and the true mask.

    Args:
        masks: Labelling run with kept maps.
        photos: Folder that holds `photos-*.tar` and `truth/`.
        key: Key of the photo.
        out: PNG to write.
    """
    run = read_run(masks)
    maker = ExampleMaker(
        vocabulary=parse_vocabulary(run["vocabulary"]),
        inputs=read_config(masks, run).inputs,
        find_truth=open_truth(str(photos / "truth")),
    )
    for manifest in map(open_manifest, list_manifests(masks)):
        rows = [row for row in manifest.iterate_rows() if row["key"] == key]
        for example in maker.make_from_rows(manifest, rows):
            pictures = {picture.caption: picture for picture in (*example.pictures, *example.maps)}
            # The photo, then its class maps, then mask and truth.
            captions = sorted(pictures, key=lambda caption: {"photo": 0, "mask": 2, "truth": 3}.get(caption, 1))
            panels: list[tuple[str, Image.Image]] = [
                (caption, Image.open(io.BytesIO(base64.b64decode(pictures[caption].source.partition(",")[2]))))
                for caption in captions
            ]
            draw_panels(panels, "tags: " + ", ".join(read_tags(photos, key))).save(out, optimize=True)


def read_tags(photos: Path, key: str) -> list[str]:
    """Tags of a photo in its shard."""
    for path in sorted(photos.glob("photos-*.tar")):
        with tarfile.open(path) as archive:
            if f"{key}.json" in archive.getnames():
                member = archive.extractfile(f"{key}.json")
                return [] if member is None else [tag.strip() for tag in json.load(member)["tags"]]
    return []


def draw_panels(panels: list[tuple[str, Image.Image]], heading: str) -> Image.Image:
    """Join captioned pictures to one row, with few colours for a small file."""
    width = len(panels) * (PANEL_PX[0] + MARGIN_PX) - MARGIN_PX
    page = Image.new("RGB", (width, PANEL_PX[1] + 2 * CAPTION_PX), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    draw.text((2, 3), heading, fill=(40, 40, 40), font=font)
    for place, (caption, picture) in enumerate(panels):
        x = place * (PANEL_PX[0] + MARGIN_PX)
        page.paste(picture.resize(PANEL_PX, Image.Resampling.LANCZOS), (x, CAPTION_PX))
        draw.text((x + 2, CAPTION_PX + PANEL_PX[1] + 3), caption, fill=(40, 40, 40), font=font)
    return page.quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


if __name__ == "__main__":
    draw_example(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
