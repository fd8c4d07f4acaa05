"""Made-up tagged photos for the demo: textured backgrounds, a few kinds of objects, and the truth kept aside.

Each picture is a function of its random seed. Tags come as people write them: other names, other languages, other
spelling, and words that say nothing of what is in the picture. The pixel truth lies in its own folder, which
training never sees.
"""

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from pipeline.images.masks import encode_mask, voc_palette

ALIASES = {
    "ladybug": ("ladybird", "Marienkäfer", "lady bug", "coccinelle"),
    "fish": ("fishes", "Fisch", "clown_fish", "poisson"),
    "tree": ("pine tree", "Baum", "conifer", "trees"),
    "mushroom": ("toadstool", "Pilz", "fungus", "champignon"),
}
CLASSES = tuple(ALIASES)
JUNK_TAGS = ("sunset", "canon", "my holiday", "2019", "macro", "cute", "bokeh", "instagood", "outdoors", "IMG_0042")
SIZES = ((128, 128), (160, 120), (120, 160), (176, 112), (144, 96))
"""Width and height of pictures, in pixels."""
OVERSAMPLING = 2
EXIF_ORIENTATION = 0x0112

Rng = np.random.Generator
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """One made-up photo, as it is stored."""

    key: str
    image: bytes
    suffix: str
    tags: tuple[str, ...]
    truth: UInt8[np.ndarray, "h w"]
    """Class ids on the stored pixels, 0 background."""
    exif_orientation: int
    """Of image and truth."""


def write_collection(
    folder: Path, splits: dict[str, int], *, samples_per_shard: int = 64, rng_seed: int = 0, num_processes: int = 2
) -> None:
    """Write shards `<split>-00000.tar` .., `truth/<key>.png` and `vocabulary.json`.

    Args:
        folder: Made if it is not there.
        splits: Number of pictures of each split.
        samples_per_shard: Pictures in a shard.
        rng_seed: Decides the collection.
        num_processes: That draw pictures.
    """
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    aliases = {name: list(words) for name, words in ALIASES.items()}
    vocabulary = {"classes": list(CLASSES), "aliases": aliases}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary, indent=1, ensure_ascii=False))
    with ProcessPoolExecutor(num_processes) as processes:
        for number, (split, num_pictures) in enumerate(splits.items()):
            rng_seeds = [(rng_seed, number, index) for index in range(num_pictures)]
            keys = [f"{split}{index:05d}" for index in range(num_pictures)]
            pictures = processes.map(draw_picture, keys, rng_seeds, chunksize=16)
            for shard, group in enumerate(_group(pictures, samples_per_shard)):
                _write_shard(folder / f"{split}-{shard:05d}.tar", group)
                for picture in group:
                    truth = encode_mask(picture.truth, voc_palette(), picture.exif_orientation)
                    (folder / "truth" / f"{picture.key}.png").write_bytes(truth)


def draw_picture(key: str, rng_seed: Sequence[int]) -> Picture:
    """Draw the picture of a random seed."""
    rng = np.random.default_rng(rng_seed)
    width, height = SIZES[rng.integers(len(SIZES))]
    scene = _draw_background(rng, height * OVERSAMPLING, width * OVERSAMPLING)
    truth = np.zeros((height, width), np.uint8)
    num_classes = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    class_ids = sorted(int(index) + 1 for index in rng.choice(len(CLASSES), num_classes, replace=False))
    for place, class_id in enumerate(rng.permutation(class_ids)):
        for _ in range(1 + int(rng.random() < 0.25)):
            _place(rng, scene, truth, int(class_id), (place + 0.5) / num_classes)
    # What another object hides is not in the picture, so it is no tag.
    visible = [class_id for class_id in class_ids if (truth == class_id).sum() > 0.005 * truth.size]
    truth[~np.isin(truth, visible)] = 0
    photo = _develop(rng, scene, (width, height))
    orientation = 1
    # As cameras and phones do: mostly JPEG, some PNG, some JPEGs on their side with a note in the EXIF.
    kind = rng.random()
    suffix = "png" if kind < 0.06 else "jpg"
    if 0.06 <= kind < 0.14:
        orientation = 6
        photo, truth = photo.transpose(Image.Transpose.ROTATE_90), np.rot90(truth).copy()
    return Picture(
        key=key,
        image=_encode(rng, photo, suffix, orientation),
        suffix=suffix,
        tags=_write_tags(rng, visible),
        truth=truth,
        exif_orientation=orientation,
    )


def _write_tags(rng: Rng, class_ids: Sequence[int]) -> tuple[str, ...]:
    tags = []
    for class_id in class_ids:
        name = CLASSES[class_id - 1]
        tag = str(rng.choice([name, *ALIASES[name]]))
        tags.append({0: tag.upper(), 1: tag.replace(" ", "_"), 2: f" {tag} "}.get(int(rng.integers(6)), tag))
    tags += [str(tag) for tag in rng.choice(JUNK_TAGS, int(rng.integers(0, 4)), replace=False)]
    return tuple(str(tag) for tag in rng.permutation(tags))


def _encode(rng: Rng, photo: Image.Image, suffix: str, exif_orientation: int) -> bytes:
    buffer = io.BytesIO()
    if suffix == "png":
        photo.save(buffer, "PNG")
        return buffer.getvalue()
    exif = Image.Exif()
    if exif_orientation != 1:
        exif[EXIF_ORIENTATION] = exif_orientation
    photo.save(buffer, "JPEG", quality=int(rng.integers(80, 95)), exif=exif)
    return buffer.getvalue()


def _develop(rng: Rng, scene: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Light from a side, a vignette, the noise of a sensor."""
    photo = np.asarray(scene.resize(size, Image.Resampling.LANCZOS), np.float32)
    rows, columns = np.mgrid[-1 : 1 : photo.shape[0] * 1j, -1 : 1 : photo.shape[1] * 1j]
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + 0.22 * (rows * math.sin(angle) + columns * math.cos(angle)) - 0.12 * (rows**2 + columns**2)
    tint = rng.uniform(0.92, 1.08, 3)
    photo = photo * (light * rng.uniform(0.85, 1.15))[..., None] * tint + rng.normal(0, 4, photo.shape)
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8))


def _place(rng: Rng, scene: Image.Image, truth: UInt8[np.ndarray, "h w"], class_id: int, where: float) -> None:
    """Put an object with its shadow into the scene, and its pixels into the truth."""
    side = int(min(scene.size) * rng.uniform(0.36, 0.7))
    sprite = _DRAW[CLASSES[class_id - 1]](rng, side)
    upright = CLASSES[class_id - 1] in ("tree", "mushroom")
    sprite = sprite.rotate(rng.normal(0, 8) if upright else rng.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x = int(np.clip(rng.normal(where, 0.12), 0.15, 0.85) * scene.width - sprite.width / 2)
    y = int(rng.uniform(0.3, 0.7) * scene.height - sprite.height / 2)
    alpha = sprite.getchannel("A")
    shadow = alpha.filter(ImageFilter.GaussianBlur(side / 20)).point(lambda value: value * 0.45)
    scene.paste((10, 10, 15), (x + side // 16, y + side // 14), shadow)
    scene.paste(sprite, (x, y), alpha)
    covered = Image.new("L", scene.size)
    covered.paste(alpha, (x, y))
    truth[np.asarray(covered.resize(truth.shape[::-1], Image.Resampling.BOX)) > 127] = class_id


def _jitter(rng: Rng, color: Color, amount: float = 22) -> Color:
    red, green, blue = (int(np.clip(value + rng.normal(0, amount), 0, 255)) for value in color)
    return red, green, blue


def _start(side: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sprite = Image.new("RGBA", (side, side))
    return sprite, ImageDraw.Draw(sprite)


def _box(side: int, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
    return x0 * side, y0 * side, x1 * side, y1 * side


def _shade(rng: Rng, sprite: Image.Image, strength: float = 0.5) -> Image.Image:
    """Round an object off by light from above, and give its surface some grain."""
    pixels = np.asarray(sprite, np.float32).copy()
    side = sprite.width
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = 1.15 - strength * ((rows + 0.35) ** 2 + (columns + 0.25) ** 2) / 2
    grain = 1 + 0.1 * _make_noise(rng, side, side, 4)
    pixels[..., :3] *= (light * grain)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_ladybug(rng: Rng, side: int) -> Image.Image:
    sprite, draw = _start(side)
    draw.ellipse(_box(side, 0.32, 0.02, 0.68, 0.34), fill=(25, 22, 24, 255))
    draw.ellipse(_box(side, 0.36, 0.08, 0.46, 0.17), fill=(235, 235, 225, 255))
    draw.ellipse(_box(side, 0.54, 0.08, 0.64, 0.17), fill=(235, 235, 225, 255))
    draw.ellipse(_box(side, 0.12, 0.15, 0.88, 0.98), fill=(*_jitter(rng, (205, 38, 30)), 255))
    draw.line(_box(side, 0.5, 0.17, 0.5, 0.97), fill=(30, 20, 20, 255), width=max(1, side // 40))
    for x, y in ((0.32, 0.36), (0.26, 0.6), (0.38, 0.8)):
        radius = rng.uniform(0.06, 0.085)
        for center in (x, 1 - x):
            box = _box(side, center - radius, y - radius, center + radius, y + radius)
            draw.ellipse(box, fill=(25, 20, 22, 255))
    return _shade(rng, sprite)


def _draw_fish(rng: Rng, side: int) -> Image.Image:
    sprite, draw = _start(side)
    color = (*_jitter(rng, (238, 132, 30)), 255)
    draw.polygon([(0.1 * side, 0.28 * side), (0.36 * side, 0.5 * side), (0.1 * side, 0.72 * side)], fill=color)
    draw.polygon([(0.42 * side, 0.3 * side), (0.62 * side, 0.12 * side), (0.7 * side, 0.34 * side)], fill=color)
    body = Image.new("L", (side, side))
    ImageDraw.Draw(body).ellipse(_box(side, 0.22, 0.26, 0.98, 0.74), fill=255)
    stripes = Image.new("RGBA", (side, side), color)
    striping = ImageDraw.Draw(stripes)
    for center in (0.36, 0.56, 0.76):
        striping.rectangle(_box(side, center - 0.055, 0, center + 0.055, 1), fill=(20, 22, 30, 255))
        striping.rectangle(_box(side, center - 0.035, 0, center + 0.035, 1), fill=(245, 245, 240, 255))
    sprite.paste(stripes, (0, 0), body)
    draw.ellipse(_box(side, 0.85, 0.41, 0.91, 0.47), fill=(15, 15, 20, 255))
    return _shade(rng, sprite)


def _draw_tree(rng: Rng, side: int) -> Image.Image:
    sprite, draw = _start(side)
    draw.rectangle(_box(side, 0.44, 0.8, 0.56, 1.0), fill=(*_jitter(rng, (96, 64, 38), 12), 255))
    green = _jitter(rng, (32, 98, 52), 14)
    for level, (top, bottom, half) in enumerate(((0.55, 0.88, 0.36), (0.3, 0.66, 0.28), (0.04, 0.42, 0.2))):
        zigzag = [(0.5 * side, top * side)]
        num_teeth = 6
        for tooth in range(num_teeth + 1):
            x = 0.5 + half - 2 * half * tooth / num_teeth
            zigzag += [(x * side, (bottom - (0.05 if tooth % 2 else 0)) * side)]
        shade = tuple(min(255, value + 16 * level) for value in green)
        draw.polygon(zigzag, fill=(*shade, 255))
    pixels = np.asarray(sprite, np.float32).copy()
    pixels[..., :3] *= (1 + 0.35 * rng.normal(0, 1, (side, side)).clip(-1.5, 1.5))[..., None]
    return _shade(rng, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), 0.3)


def _draw_mushroom(rng: Rng, side: int) -> Image.Image:
    sprite, draw = _start(side)
    draw.polygon(
        [(0.4 * side, 0.45 * side), (0.6 * side, 0.45 * side), (0.66 * side, 0.98 * side), (0.34 * side, 0.98 * side)],
        fill=(*_jitter(rng, (226, 214, 190), 10), 255),
    )
    cap = Image.new("L", (side, side))
    ImageDraw.Draw(cap).pieslice(_box(side, 0.06, 0.06, 0.94, 1.04), 180, 360, fill=255)
    skin = Image.new("RGBA", (side, side), (*_jitter(rng, (128, 62, 140), 16), 255))
    spotting = ImageDraw.Draw(skin)
    for _ in range(11):
        x, y, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.55), rng.uniform(0.025, 0.06)
        spotting.ellipse(_box(side, x - radius, y - radius, x + radius, y + radius), fill=(240, 232, 236, 255))
    sprite.paste(skin, (0, 0), cap)
    return _shade(rng, sprite, 0.45)


_DRAW: dict[str, Callable[[Rng, int], Image.Image]] = {
    "ladybug": _draw_ladybug,
    "fish": _draw_fish,
    "tree": _draw_tree,
    "mushroom": _draw_mushroom,
}


def _make_noise(rng: Rng, height: int, width: int, coarsest: int, num_octaves: int = 4) -> Float[np.ndarray, "h w"]:
    """Fractal noise about 0: random grids, each twice as fine and 0.6 times as strong as the one before."""
    total = np.zeros((height, width), np.float32)
    for octave in range(num_octaves):
        cells = coarsest * 2**octave
        grid = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        total += 0.6**octave * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return total / 1.5


def _draw_background(rng: Rng, height: int, width: int) -> Image.Image:
    kind = rng.integers(5)
    rows, columns = np.mgrid[:height, :width] / min(height, width)
    fine, coarse = _make_noise(rng, height, width, 24), _make_noise(rng, height, width, 3)
    if kind == 0:  # meadow
        color, texture = (98, 140, 62), 0.25 * fine + 0.15 * coarse
    elif kind == 1:  # sand
        color, texture = (205, 178, 132), 0.07 * fine + 0.12 * coarse
    elif kind == 2:  # water
        color, texture = (62, 122, 160), 0.16 * np.sin(26 * rows + 3 * coarse + 2 * columns) + 0.08 * fine
    elif kind == 3:  # planks
        color = (150, 108, 70)
        edges = (np.abs((columns * 5) % 1 - 0.5) > 0.47) * 0.5
        texture = 0.12 * np.sin(40 * rows * 0.2 + 9 * coarse) + 0.08 * fine - edges
    else:  # sky and clouds
        color, texture = (140, 178, 214), 0.2 * coarse.clip(0, 2) + 0.15 * rows
    base = np.array(_jitter(rng, color, 14), np.float32)
    pixels = base * (1 + texture[..., None])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _group(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    group: list[Picture] = []
    for picture in pictures:
        group.append(picture)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _write_shard(path: Path, pictures: Sequence[Picture]) -> None:
    with tarfile.open(path, "w") as archive:
        for picture in pictures:
            tags = json.dumps({"tags": list(picture.tags)}, ensure_ascii=False).encode()
            for suffix, payload in ((picture.suffix, picture.image), ("json", tags)):
                header = tarfile.TarInfo(f"{picture.key}.{suffix}")
                header.size = len(payload)
                archive.addfile(header, io.BytesIO(payload))
