"""What several tests share: the data beside the project, a tiny model, and the command line in this process."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from cir.testing.commands import Outcome, Run
from cir.testing.fakes import FakeEncoder, build, folder_of, paint
from cir.testing.long_tests import pytest_addoption, pytest_collection_modifyitems  # noqa: F401

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test loses power, so files need not be forced to the disk; a third of the indexer's tests would be that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_record_of_indexed_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor change what the person who runs them has indexed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and oracles beside the checkout; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "oracles").is_dir():
        pytest.skip("needs ../shared, which is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights and a few words: the real classes in milliseconds."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-1", seed=0)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """Makes further tiny models: directory, seed -> directory."""
    return make_tiny_model


@pytest.fixture(scope="session")
def tiny_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stationary model with vectors, tokens and ONNX graphs, by `cir export-onnx` over graphs that were broken.

    Exporting takes half a minute, so that the processes of a test run share it.
    """
    pytest.importorskip("onnxscript")
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(base / "tiny-graphs.lock"):
        directory = base / "graphs" / "tiny-1"
        if not directory.exists():
            making = base / "making" / "tiny-1"
            make_tiny_model(making, seed=1, classes={"colour": ["red", "blue"]})
            for name in ("graphs.json", "text.onnx", "left-over.onnx"):
                (making / "onnx").mkdir(exist_ok=True)
                (making / "onnx" / name).write_bytes(b"broken")
            done = subprocess.run([sys.executable, "-m", "cir", "export-onnx", making], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "text states: differ from torch by at most" in done.stdout
            directory.parent.mkdir()
            making.rename(directory)
    return directory


@pytest.fixture(scope="session")
def sprc_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the official SPRC code saves it, of 4 heads everywhere; tests/golden holds what it computes."""
    path = tmp_path_factory.mktemp("checkpoint") / "tuned_clip_best.pt"
    path.write_bytes(gzip.decompress((ROOT / "tests/golden/data/sprc-tiny/model.pt.gz").read_bytes()))
    return path


@pytest.fixture(scope="session")
def sprc_model(sprc_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint converted: a model directory that gives tokens and no vectors."""
    from cir.models.convert import convert

    directory = tmp_path_factory.mktemp("converted") / "sprc-tiny"
    return convert(sprc_checkpoint, directory, vision_heads=4, qformer_heads=4).directory


def make_tiny_model(
    directory: Path, *, seed: int, vector: bool = True, classes: dict[str, list[str]] | None = None
) -> Path:
    """Write a tiny random model; another seed is another model. With `classes` its gallery is stationary."""
    import torch

    from cir.images import Preprocess
    from cir.models import weights
    from cir.models.config import SprcConfig
    from cir.models.sprc import Sprc
    from cir.models.stationary import product
    from cir.types import SimplexBlock

    letters = "abcdefghijklmnopqrstuvwxyz0123456789,-'?"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "with", "long", "sleeves"]
    vocabulary = "\n".join([*pieces, *letters, *(f"##{letter}" for letter in letters)]) + "\n"
    torch.manual_seed(seed)
    vision = {"type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1}
    config = SprcConfig(
        vision={**vision, "num_attention_heads": 2, "intermediate_size": 64, "qkv_bias": True},
        width=32,
        layers=2,
        heads=2,
        intermediate=64,
        query_tokens=4,
        dims=16,
        vocabulary=128,
        positions=64,
        gallery_vector=vector,
        simplex=product([SimplexBlock(name, 4, 1) for name in classes], free_weight=1) if classes else None,
    )
    model = Sprc(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # a fresh BLIP-2 is blind: its vision starts at 1e-10
            torch.nn.init.normal_(parameter, std=0.2)
    description = weights.ModelDescription(
        name=directory.name,
        preprocess=Preprocess(size=32, flatten=True, target_ratio=1.0, fill=255),
        vocabulary=vocabulary.encode(),
        classes=classes or {},
        training={"seed": seed},
    )
    weights.save(directory, model, description)
    return directory


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that a test may damage."""
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny-1")
    return tmp_path / "models" / "tiny-1"


@pytest.fixture(scope="session")
def wardrobe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rendered garments with their table."""
    from cir.data import wardrobe

    folder = tmp_path_factory.mktemp("data") / "wardrobe"
    wardrobe.write(folder, 40, seed=3)
    return folder


@pytest.fixture(scope="session")
def fashioniq_train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The train part of a FashionIQ of 8 triplets a category, in the official layout, its pictures of plain colours."""
    from PIL import Image

    root = tmp_path_factory.mktemp("data") / "fashioniq"
    for folder in ("captions", "images"):
        (root / folder).mkdir(parents=True)
    colours = ("red", "blue", "white", "black")
    for category in ("dress", "shirt", "toptee"):
        entries = []
        for number in range(8):
            before, after = colours[number % 4], colours[(number + 1) % 4]
            for name, colour in ((f"{category}{number}a", before), (f"{category}{number}b", after)):
                picture = Image.new("RGB", (40, 40), colour)
                picture.putpixel((number, number), (9, 99, 9))
                picture.save(root / "images" / f"{name}.png")
            captions = [f"is {after}.", "with long sleeves"]
            entries.append(
                {"candidate": f"{category}{number}a", "target": f"{category}{number}b", "captions": captions}
            )
        (root / "captions" / f"cap.{category}.train.json").write_text(json.dumps(entries), encoding="utf-8")
    return root


TRAINING = """
task = "triplets"
name = "tiny-trained"
[recipe]
epochs = 4
learning_rate = 1e-3
eps = 1e-7
checkpoint_every = 2
[recipe.one_cycle]
rise = 0.25
start_divisor = 100
epochs = 4
[batches]
dataset = "fashioniq"
batch = 4
rtc_weight = 1.0
align_weight = 1.0
held_out = 0.2
"""


@pytest.fixture(scope="session")
def training_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration in the manner of the official recipes, of a few steps."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TRAINING, encoding="utf-8")
    return path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line as a shell would run it, in this process."""

    def run(*words: object) -> Outcome:
        from cir.cli import cli, process

        capfd.readouterr()
        code = process.run(cli, list(map(str, words)))
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty small pictures, which a test may change: 0000.png to 0019.png."""
    return folder_of(tmp_path / "photos", 20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a test builds an index; its parent does not exist."""
    return tmp_path / "below" / "x.index"


@pytest.fixture(scope="session")
def at(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An index of twelve small pictures, and one of them in all forms."""
    import numpy as np
    from PIL import Image

    import cir
    from cir.indexer.reading.gallery import Gallery

    root = tmp_path_factory.mktemp("calls")
    photos = folder_of(root / "photos", 11)
    paint(photos / "caf\u00e9.png", 99)
    images = cir.scan(photos)
    table = {image.id: {"season": ["Summer", "Winter"][row % 2], "year": "2012"} for row, image in enumerate(images)}
    build(photos, root / "my.index", metadata=table)
    path = photos / "0003.png"
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.write(path, "inner/a.png")
    searcher = cir.Searcher(Gallery.open(root / "my.index"), lambda card: FakeEncoder())
    picture = Image.open(path)
    array = np.asarray(picture.convert("RGB"))
    return SimpleNamespace(root=root, photos=photos, path=path, s=searcher, picture=picture, array=array)


@pytest.fixture(scope="session")
def official_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data sets in the official layouts: fashioniq/, cirr/ and circo/, with pictures, .png and .jpg."""
    folder = tmp_path_factory.mktemp("official")
    write_official_data(folder)
    return folder


def write_official_data(folder: Path) -> None:
    """Draw pictures of one colour each and write annotations about them."""
    import random

    from PIL import Image

    rng = random.Random(0)

    def write(path: Path, content: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")

    def paint(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 32), tuple(rng.randrange(256) for _ in range(3))).save(path)

    fashioniq = folder / "fashioniq"
    for category, start in (("dress", 0), ("shirt", 20), ("toptee", 35)):  # the last two share images
        names = [f"B{number:03d}" for number in range(start, start + 20)]
        pairs = [rng.sample(names[:15], 2) for _ in range(8)]
        entries = [
            {"candidate": a, "target": b, "captions": ["Is red.", f"has {n} stripes, "]}
            for n, (a, b) in enumerate(pairs)
        ]
        write(fashioniq / "captions" / f"cap.{category}.val.json", entries)
        write(fashioniq / "image_splits" / f"split.{category}.val.json", names)
        for number, name in enumerate(names):
            picture = fashioniq / "images" / f"{name}.{'jpg' if number % 2 else 'png'}"
            if not list(picture.parent.glob(f"{name}.*")):
                paint(picture)
    cirr = folder / "cirr"
    for split, place in (("val", "dev"), ("test1", "test1")):
        names = [f"{place}-{number}-img0" for number in range(60)]
        judged: list[dict[str, Any]] = []
        for number in range(9):
            members = names[number // 3 * 6 : number // 3 * 6 + 6]
            reference, target, other = rng.sample(members, 3)
            entry: dict[str, Any] = {"pairid": 100 + number, "reference": reference, "caption": f"with {number} dogs"}
            if split == "val":
                entry |= {"target_hard": target, "target_soft": {target: 1.0, other: 0.5, names[-1]: -1.0}}
            judged.append({**entry, "img_set": {"id": number // 3, "members": members}})
        write(cirr / "cirr" / "captions" / f"cap.rc2.{split}.json", judged)
        files = {name: f"./{place}/{name}.png" for name in names}
        write(cirr / "cirr" / "image_splits" / f"split.rc2.{split}.json", files)
        for name in names:
            paint(cirr / place / f"{name}.png")
    circo = folder / "circo"
    numbers = [100 + 7 * number for number in range(60)]
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in numbers]
    coco = circo / "COCO2017_unlabeled"
    write(coco / "annotations" / "image_info_unlabeled2017.json", {"images": images})
    for image in images:
        paint(coco / "unlabeled2017" / str(image["file_name"]))
    for split in ("val", "test"):
        queries: list[dict[str, Any]] = []
        for number in range(5):
            source, *truths = rng.sample(numbers, 3 + 3 * number)
            entry = {"id": number, "reference_img_id": source, "relative_caption": f"has {number} cats"}
            if split == "val":
                aspects = ["addition"] if number % 2 else ["addition", "negation"]
                entry |= {"target_img_id": truths[0], "gt_img_ids": truths, "semantic_aspects": aspects}
            queries.append(entry)
        write(circo / "annotations" / f"{split}.json", queries)
