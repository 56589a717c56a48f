"""An installation for searching only, without torch (requirements-search.txt), in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cir.data import wardrobe

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def search_venv() -> Path:
    """The environment that `scripts/test` makes with `scripts/setup_search`."""
    venv = ROOT / os.environ.get("CIR_SEARCH_VENV", ".venv-search")
    if not (venv / "bin" / "cir").exists():
        pytest.skip("needs an installation for searching only, which is not here: scripts/setup_search")
    return venv


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search-only")
    wardrobe.write(folder / "wardrobe", 30, seed=2)
    return folder


def cir(venv: Path, folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([venv / "bin" / "cir", *words], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    return done


def test_torch_is_not_there(search_venv: Path) -> None:
    code = "import importlib.util as u; print([bool(u.find_spec(name)) for name in ('torch', 'transformers')])"
    out = subprocess.run([search_venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[False, False]"


def test_it_builds_searches_and_evaluates(search_venv: Path, folder: Path) -> None:
    images = folder / "wardrobe"
    built = cir(
        search_venv, folder, "build-index", str(images), "-o", "my.index", "--metadata", "wardrobe/wardrobe.csv"
    )
    assert "30" in built.stdout + built.stderr
    hits = json.loads(cir(search_venv, folder, "query", "my.index", "-t", "in red", "--json").stdout)["hits"]
    assert len(hits) == 10
    composed = cir(search_venv, folder, "query", "my.index", "-i", hits[0]["id"], "-t", "but striped", "--json")
    assert len(json.loads(composed.stdout)["hits"]) == 10
    assert "small-4" in cir(search_venv, folder, "info", "my.index").stdout
    cir(search_venv, folder, "verify", "my.index")
    question = {"id": "a", "reference": hits[0]["id"], "caption": "striped", "targets": [hits[1]["id"]]}
    (folder / "questions.jsonl").write_text(json.dumps(question))
    words = ["evaluate", "jsonl", "--data-root", "wardrobe", "--queries", "questions.jsonl"]
    assert "R@10" in cir(search_venv, folder, *words).stdout


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "x.pt", "-o", "y"],
        ["train", "small", "--data-root", "wardrobe", "--work", "work", "--out", "model"],
        ["query", "my.index", "-t", "red", "--device", "cuda"],
    ],
)
def test_whatever_needs_torch_says_so(search_venv: Path, folder: Path, words: list[str]) -> None:
    done = cir(search_venv, folder, *words, code=2)
    assert "torch" in done.stderr
    assert len(done.stderr.splitlines()) == 1
