"""The shape of the project: what is installed, who imports whom, and how fast the command line starts."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cir

ROOT = Path(__file__).parents[2]
FOLDERS = {"cir": "cir", "indexer": "cir.indexer", "eval": "cir.eval", "data_manifests": "cir.data_manifests"}
BASE = {"types", "errors", "images", "__init__"}
# What each part may import of ours. `cir` itself, for the version, is free to all.
ARROWS = {
    "types": set(),
    "errors": set(),
    "images": {"errors"},
    "text": {"errors"},
    "devices": {"errors"},
    "losses": set(),
    "phrases": set(),
    "catalogue": set(),
    "wardrobe": set(),
    "products": {"catalogue", "errors", "images", "phrases"},
    "models": {"types", "errors", "images", "text", "devices"},
    "indexer": {"types", "errors", "images"},
    "search": {"types", "errors", "images", "text", "models", "indexer"},
    "sheet": {"types", "errors", "images"},
    "eval": {"types", "errors", "images", "search", "catalogue", "phrases", "products", "wardrobe"},
    "replacement": {"types", "errors", "images", "catalogue", "phrases", "indexer", "search", "eval"},
    "training": {
        "types",
        "errors",
        "images",
        "eval",
        "models",
        "losses",
        "text",
        "devices",
        "catalogue",
        "phrases",
        "products",
        "wardrobe",
    },
    "cli": None,  # anything
    "__main__": {"cli"},
    "data_manifests": set(),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of ours."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]), path


def imports(path: Path) -> Iterator[str]:
    """Every dotted name a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "cir":
                yield from (f"cir.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module


def part(name: str) -> str:
    """`cir.indexer.storage.segment` -> `indexer`."""
    return name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_one_way(name: str, path: Path) -> None:
    own = part(name)
    if own == "__init__":
        return  # hands out the public names lazily
    allowed = ARROWS[own]
    for imported in imports(path):
        assert imported.split(".")[0] not in ("indexer", "eval", "data_manifests"), f"{name} imports {imported}"
        if imported.startswith("cir.") and allowed is not None:
            there = part(imported)
            assert there == own or there in allowed or there.startswith("__"), f"{name} imports {imported}"


def test_only_one_module_imports_h5py_and_one_faiss() -> None:
    for library, home in (("h5py", "cir.indexer.storage.segment"), ("faiss", "cir.indexer.reading.ann")):
        users = [name for name, path in modules() if any(i.split(".")[0] == library for i in imports(path))]
        assert users == [home]


def test_modules_are_small() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules()}
    assert not {name: length for name, length in lengths.items() if length > 500}


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "faiss", "transformers", "h5py", "numpy", "PIL")
    code = f"import sys, cir, cir.cli; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    for name in cir.__all__:
        assert getattr(cir, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cir.nonsense


def test_the_wheel_holds_one_package_and_its_data(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cir"}
    for needed in (
        "cir/py.typed",
        "cir/phrases.json",
        "cir/training/configs/small.toml",
        "cir/indexer/store.py",
        "cir/eval/metrics.py",
        "cir/data_manifests/products.json",
        "cir/wardrobe/cut.py",
        "cir/models/small-3/card.json",
        "cir/models/small-3/model.safetensors",
        "cir/models/small-3/vocab.txt",
        "cir/models/small-lite-1/model.safetensors",
        "cir/models/vocab.txt",
    ):
        assert needed in names
    assert sum(name.startswith("cir/models/frozen-") for name in names) == 1


def test_every_source_folder_is_packaged() -> None:
    listed = (ROOT / "setup.py").read_text(encoding="utf-8")
    for name, path in modules():
        package = name.rsplit(".", 1)[0]
        assert f'"{package}"' in listed, path
