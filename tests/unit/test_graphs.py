"""ONNX graphs: they compute what torch does, they hold no weights, and damaged ones are refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cir
from cir import devices
from cir.arrays import unit
from cir.cli import process
from cir.errors import MissingDependencyError, UsageError, WeightsError
from cir.models import export_graphs, graphs, weights
from cir.models.base_encoder import BaseEncoder
from cir.models.check import check
from cir.models.heads import Linear, gallery_vectors
from cir.testing.commands import Run
from cir.types import Simplex, SimplexBlock

CAPTIONS = ["in red, with long sleeves", "", "with blue", "red", "a caption that is longer than the others"]


@pytest.fixture
def full_precision() -> Iterator[None]:
    with devices.full_precision():
        yield


def outputs(encoder: BaseEncoder, space: str | None = None) -> dict[str, np.ndarray]:
    """Everything that an encoder computes, on noise."""
    size = encoder.preprocess(np.zeros((40, 40, 3), np.uint8)).shape[-1]
    pixels = np.random.default_rng(3).normal(size=(len(CAPTIONS), 3, size, size)).astype(np.float32)
    encoded = encoder.encode_images(pixels)
    found = {
        "vectors": encoded.vectors,
        "tokens": encoded.tokens,
        "queries": encoder.encode_queries(pixels, CAPTIONS),
        "texts": encoder.encode_texts(CAPTIONS),
        "one text": encoder.encode_texts(CAPTIONS[2:3]),
        "query states": encoder.query_states(pixels[:2], CAPTIONS[:2]),
        "text states": encoder.text_states(CAPTIONS),
    }
    if space:
        found["queries in the older space"] = encoder.encode_queries(pixels, CAPTIONS, space)
    return {name: value for name, value in found.items() if value is not None}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - value).max() <= 1e-4 * max(1, np.abs(value).max()), name


@pytest.mark.slow
@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("name", ["small", "small-lite"])
def test_the_packaged_graphs_compute_what_torch_does(name: str) -> None:
    ours, theirs = (cir.load_model(name, device="cpu", runtime=runtime) for runtime in ("onnx", "torch"))
    assert type(ours) is not type(theirs)
    space = next(iter(ours.card.query_heads), None)
    assert_same(outputs(ours, space), outputs(theirs, space))
    assert ours.unread("red " * 60) == theirs.unread("red " * 60) != ""


@pytest.mark.slow
@pytest.mark.usefixtures("full_precision")
def test_exported_graphs_compute_what_torch_does(tiny_graphs: Path) -> None:
    found = outputs(cir.load_model(tiny_graphs))
    assert found.keys() >= {"vectors", "tokens"}
    assert_same(found, outputs(cir.load_model(tiny_graphs, runtime="torch")))


@pytest.mark.slow
def test_weights_are_stored_once(tiny_graphs: Path) -> None:
    for directory in (tiny_graphs, cir.models.find("small")):
        files = sorted((directory / graphs.FOLDER).iterdir())
        assert [path.name for path in files] == sorted([graphs.RECORD, *(f"{name}.onnx" for name in graphs.GRAPHS)])
        record = json.loads((directory / graphs.FOLDER / graphs.RECORD).read_bytes())
        needed = {name for entry in record["graphs"].values() for name in entry["weights"]}
        assert len(needed) > 50
    assert sum(path.stat().st_size for path in files) < 0.05 * (directory / "model.safetensors").stat().st_size


@pytest.fixture
def model(tiny_graphs: Path, tmp_path: Path) -> Path:
    """A model with graphs that a test may damage."""
    return shutil.copytree(tiny_graphs, tmp_path / "tiny-1")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def foreign(path: Path) -> None:
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "config_sha256": "0" * 64}))


def lacking(path: Path) -> None:
    record = json.loads(path.read_bytes())
    del record["graphs"]["text"]
    path.write_text(json.dumps(record))


def other_tensors(path: Path) -> None:
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps({**record, "tensors": {**record["tensors"], "text_proj.bias": [3]}}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        (
            "text.onnx",
            flip,
            "is not the file that graphs.json names; make it again .*: cir export-onnx",
        ),
        ("text.onnx", Path.unlink, "cannot be read: No such file"),
        (graphs.RECORD, foreign, "was made for another model"),
        (graphs.RECORD, lacking, "must be exactly features, gallery, composed, text"),
        (graphs.RECORD, other_tensors, "other tensors than the model has, such as text_proj.bias"),
        (graphs.RECORD, lambda path: path.write_bytes(b"{"), "cannot be read"),
    ],
)
def test_damaged_and_foreign_graphs_are_refused(
    model: Path, file: str, harm: Callable[[Path], None], message: str
) -> None:
    assert check(model) == []
    harm(model / graphs.FOLDER / file)
    (problem,) = check(model)
    assert re.search(message, problem)
    with pytest.raises(WeightsError, match=message):
        cir.load_model(model)
    assert cir.load_model(model, runtime="torch").encode_texts(["red"]).shape == (1, 16)


@pytest.mark.slow
def test_a_model_that_is_written_again_loses_its_graphs(model: Path) -> None:
    sprc, card, preprocess = weights.load(model)
    vocabulary = (model / "vocab.txt").read_bytes()
    weights.save(model, sprc, weights.ModelDescription(card.name, preprocess, vocabulary))
    assert not (model / graphs.FOLDER).exists()


def test_packaged_models_are_exported_by_their_folder_only(cli: Run) -> None:
    outcome = cli("export-onnx", "small")
    assert outcome.code == process.MISTAKE
    assert "has its graphs; to write them again name its folder" in outcome.err


@pytest.mark.slow
def test_a_failed_export_leaves_the_graphs_as_they_are(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in (model / graphs.FOLDER).iterdir()}

    def stub(module: object, inputs: object, tensors: object) -> tuple[bytes, tuple[str, ...]]:
        return b"no graph", ("prompt_tokens",)

    monkeypatch.setattr(export_graphs, "_export", stub)
    with pytest.raises(WeightsError, match="refused by ONNX Runtime"):
        export_graphs.export_graphs(model)
    assert {path.name: path.read_bytes() for path in (model / graphs.FOLDER).iterdir()} == before
    assert {path.name for path in model.iterdir()} == {"card.json", "model.safetensors", "vocab.txt", graphs.FOLDER}


@pytest.mark.slow
def test_a_file_that_is_no_graph_is_refused(model: Path) -> None:
    path = model / graphs.FOLDER / graphs.RECORD
    (path.parent / "text.onnx").write_bytes(b"no graph")
    record = json.loads(path.read_bytes())
    record["graphs"]["text"]["sha256"] = cir.files.sha256_bytes(b"no graph")
    path.write_text(json.dumps(record))
    with pytest.raises(WeightsError, match="refused by ONNX Runtime"):
        cir.load_model(model).encode_texts(["red"])


def test_a_model_without_graphs_runs_on_torch(tiny_model: Path) -> None:
    assert type(cir.load_model(tiny_model)).__name__ == "SprcEncoder"
    assert check(tiny_model) == []
    with pytest.raises(WeightsError, match=r"graphs.json: cannot be read: .*cir export-onnx"):
        cir.load_model(tiny_model, runtime="onnx")
    with pytest.raises(UsageError, match="choose one of auto, onnx, torch"):
        cir.load_model(tiny_model, runtime="tensorflow")


def test_a_device_that_is_not_here_is_refused() -> None:
    if not devices.is_cpu("auto"):
        pytest.skip("this machine has a GPU")
    for runtime in ("auto", "onnx"):
        with pytest.raises(UsageError, match="has no cuda device"):
            cir.load_model("small", device="cuda", runtime=runtime)


@pytest.mark.parametrize(("devices_there", "torch_there", "cpu"), [(0, True, True), (1, False, True), (1, True, False)])
def test_torch_is_asked_for_a_gpu_only_where_there_may_be_one(
    monkeypatch: pytest.MonkeyPatch, devices_there: int, torch_there: bool, cpu: bool
) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = devices_there
            return 0

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: torch_there or None)
    monkeypatch.setattr(devices, "choose", lambda name: SimpleNamespace(type="cuda"))
    devices._may_have_gpu.cache_clear()
    try:
        assert devices.is_cpu("auto") is cpu
        assert devices.is_cpu("cpu")
    finally:
        devices._may_have_gpu.cache_clear()


def test_without_torch_one_line_says_so(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, cli: Run) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("cir.models")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match="torch is not installed"):
        cir.load_model(tiny_model)
    outcome = cli("convert", "x.pt", "-o", "y")
    assert outcome.code == process.MISTAKE
    assert "this needs torch" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.slow
def test_searching_imports_no_torch(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from PIL import Image
from cir.cli import cli
from cir.cli.process import run
rng = np.random.default_rng(0)
for number in range(3):
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(f"photos/{number}.png")
for words in (
    ["build-index", "photos", "-o", "x.index"],
    ["query", "x.index", "-i", "photos/1.png", "-t", "in red"],
    ["query", "x.index", "-t", "in red"],
    ["query", "x.index", "-i", "1.png"],
    ["info", "x.index"],
    ["verify", "x.index"],
    ["models"],
):
    assert run(cli, words) == 0, words
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    (tmp_path / "photos").mkdir()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("free", [0, 3])
def test_heads_equal_those_of_torch(free: int) -> None:
    torch = pytest.importorskip("torch")
    from cir.models.stationary import assemble_blocks, product

    simplex: Simplex = product([SimplexBlock("colour", 4, 2), SimplexBlock("type", 6, 3)], free_weight=free)
    rng = np.random.default_rng(0)
    dims = simplex.dims + free
    head = Linear(rng.normal(size=(dims, 7)).astype(np.float32), rng.normal(size=dims).astype(np.float32))
    states = rng.normal(size=(5, 2, 7)).astype(np.float32)
    raw = torch.from_numpy(head(states.mean(axis=1)))
    np.testing.assert_allclose(gallery_vectors(states, head, simplex), assemble_blocks(raw, simplex), atol=1e-6)
    np.testing.assert_allclose(gallery_vectors(states, head, None), unit(raw.numpy()), atol=1e-6)
