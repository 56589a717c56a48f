"""The shape of the project: who imports whom, how large its parts are, and what is installed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import cir

ROOT = Path(__file__).parents[2]
FOLDERS = {"cir": "cir", "indexer": "cir.indexer", "eval": "cir.eval", "data_manifests": "cir.data_manifests"}
SOURCES = ("cir", "indexer", "eval", "tests", "bench", "scripts", "docs")
GROUND = {
    "types",
    "model_card",
    "compositions",
    "arrays",
    "errors",
    "files",
    "threads",
    "evidence",
    "mappings",
    "query",
    "query_json",
    "query_vectors",
    "images",
    "conditions",
    "given",
    "forks",
    "known",
    "checked",
    "typed_json",
    "objects",
    "places",
}
# What each part may import of this project, besides itself and the version of `cir`. None for everything.
ARROWS: dict[str, set[str] | None] = {
    **dict.fromkeys(GROUND, GROUND),
    "text": GROUND,
    "stats": GROUND,
    "tables": GROUND,
    "devices": {"errors", "threads"},
    "data": {*GROUND, "stats"},
    "models": {*GROUND, "text", "devices"},
    "indexer": {*GROUND, "data", "devices"},
    "cluster": {*GROUND, "devices", "indexer"},
    "search": {*GROUND, "text", "models", "indexer", "data"},
    "fonts": GROUND,
    "sheet": GROUND | {"fonts"},
    "explain": {*GROUND, "fonts", "sheet", "models", "indexer", "search"},
    "eval": {*GROUND, "stats", "tables", "data", "indexer"},
    "replacement": {*GROUND, "stats", "tables", "data", "indexer", "search"},
    "training": {*GROUND, "stats", "data", "models", "text", "devices"},
    "client": GROUND,
    "serve": {*GROUND, "data", "models", "indexer", "search", "replacement", "explain"},
    "cli": None,
}
# Inside the indexer; the storage knows neither readers nor writers.
INDEXER: dict[str, set[str]] = {"storage": set(), "reading": {"storage"}, "writing": {"storage", "reading"}}


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module that is installed."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]), path


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every dotted name a module imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module in ("cir", "cir.indexer"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def part(name: str) -> str:
    """`cir.indexer.storage.segment` -> `indexer`."""
    return name.split(".")[1]


INSTALLED = [pytest.param(name, path, id=name) for name, path in modules()]


@pytest.mark.parametrize(("name", "path"), INSTALLED)
def test_imports_go_one_way(name: str, path: Path) -> None:
    own = part(name)
    if own == "__init__":
        return  # hands out the public names on first use
    arrows = {**ARROWS, "testing": ARROWS.keys() - {"cli"}, "__main__": {"cli"}, "data_manifests": set()}
    allowed = arrows[own]
    for imported in imports(path):
        first = imported.split(".")[0]
        assert first not in ("indexer", "eval", "data_manifests", "tests"), f"{name} imports {imported}"
        if first == "cir" and "." in imported and allowed is not None:
            there = part(imported)
            assert there == own or there in allowed or there == "__version__", f"{name} imports {imported}"
        if imported.startswith("cir.indexer.") and own == "indexer":
            room, other = name.split(".")[2], imported.split(".")[2]
            assert room == other or other in INDEXER[room], f"{name} imports {imported}"
        if first in ("pytest", "hypothesis"):
            assert own == "testing", f"{name} imports {imported}, which users need not have"


def test_the_arrows_are_those_of_the_contributing_page() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```arrows\n(.*?)```", page, re.DOTALL)
    rows = [line.split("<-") for line in block.splitlines()]
    written = {name.strip(): set(re.split(r",\s*", names.strip())) - {""} for name, names in rows}
    assert written.pop("ground") == GROUND
    assert written.pop("testing") == {"everything but cli"}
    found: dict[str, set[str] | None] = {}
    for name, names in written.items():
        found[name] = None if names == {"everything"} else names - {"ground"} | (GROUND if "ground" in names else set())
    assert found == {name: allowed for name, allowed in ARROWS.items() if name not in GROUND}


def test_some_libraries_have_each_one_home() -> None:
    homes = {"h5py": "cir.indexer.storage.segment", "faiss": "cir.indexer.reading.ann", "obstore": "cir.objects"}
    for library, home in homes.items():
        users = [name for name, path in modules() if any(i.split(".")[0] == library for i in imports(path))]
        assert users == [home]


def test_only_the_cluster_imports_ray() -> None:
    users = {part(name) for name, path in modules() if any(i.split(".")[0] == "ray" for i in imports(path))}
    assert users == {"cluster"}


def test_no_test_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        names = set(imports(path))
        assert not {name for name in names if re.match(r"(tests|conftest|test_\w+)(\.|$)", name)}, path
        if path.name != Path(__file__).name:
            assert "sys.path" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("folder", SOURCES)
def test_files_are_short(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {name: length for name, length in lengths.items() if length > 350}


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for name, path in modules():
        yield from ((f"{name}.{node.name}", node) for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))


LARGER = ("cir.cli.", "cir.models.", "cir.training.")  # where classes and signatures may be larger


def test_classes_have_at_most_twelve_public_members() -> None:
    """Methods and properties; neither fields nor the tests of a conformance suite."""
    counts = {
        name: sum(
            isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and not member.name.startswith(("_", "test_"))
            for member in node.body
        )
        for name, node in classes()
    }
    assert not {name: count for name, count in counts.items() if count > 12 and not name.startswith(LARGER)}


def test_functions_have_at_most_eight_parameters() -> None:
    counts = {}
    for name, path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                counts[f"{name}.{node.name}"] = sum(argument.arg not in ("self", "cls") for argument in given)
    assert not {name: count for name, count in counts.items() if count > 8 and not name.startswith(LARGER)}


def test_one_type_for_a_judged_query() -> None:
    assert [name for name, node in classes() if node.name == "JudgedQuery"] == ["cir.data.judged_query.JudgedQuery"]


def lines_with(pattern: str, home: str) -> list[str]:
    """Lines of installed modules that match, outside of the one module that may."""
    return [
        f"{name}: {line.strip()}"
        for name, path in modules()
        if name != home
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(pattern, line)
    ]


def test_one_way_to_write_a_file_aside_and_rename_it() -> None:
    for pattern in (r"\bos\.(replace|rename)\(", r"\.rename\(", r"\.replace\([^,=]*\)", r"\bfsync\("):
        assert not lines_with(pattern, "cir.files")


def test_routes_are_compared_only_where_they_are_defined() -> None:
    name = r"([\"'](head|fitted|ridge|procrustes|simplex)[\"']|Route\.)"
    for pattern in (
        r"\broute (==|!=) ",
        r"\.route is (not )?(?!None\b|not\b)",
        rf"(==|!=|\bis|\bnot|\bin) [(\[{{]?{name}",
    ):
        assert not lines_with(pattern, "cir.mappings")


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


def packaged(listing: str) -> set[str]:
    """The values of a keyword of `setup(...)` in setup.py."""
    keywords = (node for node in ast.walk(tree(ROOT / "setup.py")) if isinstance(node, ast.keyword))
    (value,) = (keyword.value for keyword in keywords if keyword.arg == listing)
    return {node.value for node in ast.walk(value) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_source_folder_is_packaged() -> None:
    packages = packaged("packages")
    for name, path in modules():
        assert name.rsplit(".", 1)[0] in packages, path


def test_weights_are_packaged() -> None:
    patterns = [pattern for pattern in packaged("package_data") if pattern.startswith("weights/")]
    weights = [path for path in (ROOT / "cir" / "weights").rglob("*") if path.is_file()]
    assert {path.name for path in weights} >= {"card.json", "model.safetensors"}
    for path in weights:
        relative = path.relative_to(ROOT / "cir")
        # A pattern's * matches no slash, as in setuptools.
        assert any(len(Path(p).parts) == len(relative.parts) and relative.match(p) for p in patterns), path


@pytest.mark.slow
def test_the_wheel_holds_one_package_and_its_data(tmp_path: Path) -> None:
    """Built from a copy without weights, by the installed setuptools, so that neither time nor a registry is needed."""
    source = tmp_path / "source"
    for name in (*FOLDERS, "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cir"}
    assert {f"{name.replace('.', '/')}.py" for name, _ in modules()} <= names
    for folder, pattern in (
        ("cir", "py.typed"),
        ("cir/data", "*.json"),
        ("cir/training/configs", "*.toml"),
        ("cir/weights", "*/card.json"),
        ("cir/weights", "*/onnx/*.*"),
        ("cir/weights", "vocab.txt"),
        ("cir/serve/page", "*.*"),
        ("data_manifests", "*.json"),
    ):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(pattern)}
        assert files
        assert {name if name.startswith("cir/") else f"cir/{name}" for name in files} <= names
