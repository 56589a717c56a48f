"""Small data sets in the layouts of GeneCIS, Shoes, Fashion200K and i-CIR, with pictures of one colour each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

FEW = 6  # queries of each task


def write_genecis(root: Path) -> Path:
    """Four tasks of six queries, each with a gallery of eight; crops of pictures that lie in two folders."""
    rng = random.Random(1)
    numbers = [100 + 3 * number for number in range(40)]
    for task in ("focus_object", "change_object", "focus_attribute", "change_attribute"):
        entries = []
        for number in range(FEW):
            chosen = [_image(image, "attribute" in task, rng) for image in rng.sample(numbers, 9)]
            reference, target, *gallery = chosen
            entries.append(
                {"reference": reference, "target": target, "condition": f"thing {number}", "gallery": gallery}
            )
        _write(root / "genecis" / f"{task}.json", json.dumps(entries))
    paint((root / "val2017" / f"{number:012d}.jpg" for number in numbers), rng)
    paint((root / f"VG_100K{'_2' if number % 2 else ''}" / f"{number}.jpg" for number in numbers), rng)
    return root


def write_shoes(root: Path) -> Path:
    """Twelve photos to evaluate on, among eighteen, and six queries about them."""
    rng = random.Random(2)
    names = [f"img_womens_{kind}_{number}.jpg" for kind in ("boots", "clogs") for number in range(9)]
    kept, others = names[:12], names[12:]
    pairs = [*(rng.sample(kept, 2) for _ in range(FEW)), *(rng.sample(others, 2) for _ in range(FEW))]
    entries = [
        {"ImageName": target, "ReferenceImageName": reference, "RelativeCaption": f"is {number} times redder"}
        for number, (reference, target) in enumerate(pairs)
    ]
    _write(root / "relative_captions_shoes.json", json.dumps(entries))
    _write(root / "eval_im_names.txt", "\n".join(kept) + "\n")
    _write(root / "train_im_names.txt", "\n".join(others) + "\n")
    folders = {name: f"womens_{name.split('_')[2]}/{number % 2}" for number, name in enumerate(names)}
    paint((root / "attributedata" / folders[name] / name for name in kept), rng)
    return root


def write_fashion200k(root: Path) -> Path:
    """Twenty photos, of which several share a description, and six queries."""
    rng = random.Random(3)
    colours, garments = ("red", "blue", "green"), ("dress", "jacket", "pants", "skirt", "top")
    described = {
        f"women/{garment}s/plain/{number}/{number}_0.jpeg": f"{colours[number % 3]} plain {garment}"
        for garment in garments
        for number in range(4)
    }
    for garment in garments:
        lines = [f"{photo}\t0.9\t{text}" for photo, text in described.items() if text.endswith(garment)]
        _write(root / "labels" / f"{garment}_test_detect_all.txt", "\n".join(lines) + "\n")
    pairs = [
        (one, other)
        for one, said in described.items()
        for other, says in described.items()
        if said != says and said.split()[2] == says.split()[2]
    ]
    _write(root / "test_queries.txt", "".join(f"{one} {other}\n" for one, other in rng.sample(pairs, FEW)))
    paint((root / photo for photo in described), rng)
    return root


def write_icir(root: Path) -> Path:
    """Three instances with two, four and six queries over databases of their own."""
    rng = random.Random(4)
    queries, database = [], []
    for number, instance in enumerate(("temple", "homer", "mug")):
        texts = ["at night", "as a toy"]
        queries += [f"query/{instance}/{count}.jpg,{text},{instance}" for count in range(number + 1) for text in texts]
        database += [
            f"database/{instance}/{count}.jpg,{texts[count] if count < 2 else rng.choice([*texts, ''])},{instance}"
            for count in range(10 + number)
        ]
    _write(root / "query_files.csv", "\n".join(queries) + "\n")
    _write(root / "database_files.csv", "\n".join(database) + "\n")
    paint(dict.fromkeys(root / line.split(",")[0] for line in (*queries, *database)), rng)
    return root


def paint(paths: Iterable[Path], rng: random.Random) -> None:
    """A picture of 24 x 32 pixels at each path: two colours, so that a crop differs from the whole."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (24, 32), _colour(rng))
        picture.paste(_colour(rng), (0, 0, 12, 16))
        picture.save(path)


def _colour(rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(256) for _ in range(3))


def _image(number: int, cropped: bool, rng: random.Random) -> dict[str, Any]:
    if not cropped:
        return {"val_image_id": number}
    return {"image_id": number, "instance_bbox": [rng.randrange(12), rng.randrange(16), 6, 8]}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
