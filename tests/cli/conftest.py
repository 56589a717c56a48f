"""What tests of several commands share: an index of garments, and two models for an index of coloured pictures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir import Query, build_index, load_model, open_index
from cir.images import scan
from cir.indexer.writing.build import BuildOptions

CIR = (sys.executable, "-c", "from cir.cli import main; main()")
CAPTIONS = ("red", "blue with long sleeves", "long", "with red sleeves")
VECTORS_ONLY = BuildOptions(tokens=False)


@pytest.fixture(scope="session")
def folder(wardrobe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty garments, images/00001.jpg to images/00040.jpg, and wardrobe.csv."""
    return Path(shutil.copytree(wardrobe_folder, tmp_path_factory.mktemp("cli") / "photos"))


@pytest.fixture(scope="session")
def wardrobe_index(folder: Path, tiny_model: Path) -> Path:
    """An index of the garments, built by the command in a process of its own. No test may change it."""
    out = folder.parent / "my.index"
    words = ["build-index", folder, "-o", out, "--model", tiny_model, "--metadata", folder / "wardrobe.csv"]
    done = subprocess.run([*CIR, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "40 images (40 added)" in done.stdout
    assert "bytes per image" in done.stdout
    assert done.stderr == ""  # no progress bar if stderr is not a terminal
    return out


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """260 pictures of two colours, 000.png to 259.png. No test may change them."""
    folder = tmp_path_factory.mktemp("replace") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(260):
        pixels = np.empty((32, 32, 3), np.uint8)
        pixels[:16], pixels[16:] = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def other_model(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that shares no weights with the tiny one."""
    return make_model(tmp_path_factory.mktemp("other") / "other-1", seed=8)


@pytest.fixture
def index(coloured: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """An index of the coloured pictures by the tiny model, one vector per image."""
    build_index(scan([coloured]), tmp_path / "my.index", load_model(tiny_model), options=VECTORS_ONLY)
    return tmp_path / "my.index"


@pytest.fixture
def own_index(coloured: Path, tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Photos that a test may remove, and an index of them by the tiny model."""
    own, index = tmp_path / "photos", tmp_path / "own-photos.index"
    shutil.copytree(coloured, own)
    build_index(scan([own]), index, load_model(tiny_model), options=VECTORS_ONLY)
    return own, index


@pytest.fixture
def questions_for(coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes judged queries that a model answers perfectly: the target is its own first hit. model, count -> file."""

    def write(model: Path, count: int = 220) -> Path:
        folder = tmp_path_factory.mktemp("questions")
        build_index(scan([coloured]), folder / "own.index", load_model(model), options=VECTORS_ONLY)
        own = open_index(folder / "own.index", model=model)
        queries = [Query((own.ids[n % 60],), CAPTIONS[n // 60], k=1, id=str(n)) for n in range(count)]
        lines = [
            {
                "id": result.query.id,
                "reference": result.query.references[0],
                "caption": result.query.text,
                "targets": [result.hits[0].id],
            }
            for result in own.search_many(queries)
        ]
        path = folder / "questions.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write
