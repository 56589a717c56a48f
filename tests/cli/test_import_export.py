"""`cir import` and `cir export`, and the other commands on an index without photos."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from cir.testing.commands import Run, mistake
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.two_models import PROCRUSTES, serve_new


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """20 vectors of 16 dims, their ids, and a table."""
    vectors = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    vectors[7] = 0
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "ids.txt").write_text("".join(f"a/{row:02}.jpg\n" for row in range(20)))
    lines = [f"a/{row:02}.jpg,{'red' if row % 2 else 'blue'}" for row in range(21)]
    (tmp_path / "t.csv").write_text("\n".join(["name,colour", *lines]) + "\n")
    return tmp_path / "v.npy", tmp_path / "ids.txt", tmp_path / "t.csv"


def test_vectors_of_a_model_that_cir_has(
    cli: Run, files: tuple[Path, Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    vectors, ids, table = files
    index = tmp_path / "v.index"
    words = ("import", vectors, "--ids", ids, "--metadata", table, "--id-column", "name", "-o", index)
    mistake(cli(*words), "--model NAME", "--foreign-model NAME")
    mistake(cli(*words, "--model", "small"), "vectors of 16 dims; those of small-4 have 640", alone=False)
    mistake(cli(*words, "--model", "smallest"), "no model 'smallest'", "--foreign-model")
    mistake(cli(*words, "--model", "small", "--foreign-model", "b"), "exclude each other")
    mistake(cli(*words, "--foreign-model", "small"), "give it with --model")
    assert not index.exists()
    done = cli(*words, "--model", tiny_model)
    assert done.code == 0
    for line in (
        "19 images (19 added, 1 skipped), vectors of tiny-1",
        "19 vectors were not of unit length; stored normalised",
        "skipped a/07.jpg: its vector is all zeros",
    ):
        assert line in done.out
    assert "left out: 1 row of metadata fits no vector, the first: a/20.jpg" in done.err
    again = cli(*words, "--json").json  # the index names its model
    assert (again["added"], again["unchanged"], again["model"]) == (0, 19, "tiny-1")
    assert len(cli("query", index, "-t", "red", "--where", "colour=red", "--json").json["hits"]) == 9
    like = cli("query", index, "-i", "a/03.jpg", "-k", "2", "--sheet", tmp_path / "sheet.png")
    assert (like.code, like.err) == (0, "")
    mistake(cli("query", index, "-i", "a/03.jpg", "-t", "red"), "no photo is kept for a/03.jpg")
    assert "none: vectors were imported" in cli("info", index).out
    assert "19 images, 0 judged queries, no problems" in cli("verify", index).out


def test_vectors_of_a_model_that_cir_lacks(
    cli: Run, files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, ids, _ = files
    index = tmp_path / "clip.index"
    words = ("import", vectors, "--ids", ids, "-o", index)
    assert "vectors of clip-vit-b-32" in cli(*words, "--foreign-model", "clip-vit-b-32").out
    mistake(cli(*words, "--foreign-model", "clip-vit-l-14"), "is served by clip-vit-b-32")
    assert "only its name: cir does not have it" in cli("info", index).out
    assert cli("verify", index).code == 0
    mistake(cli("query", index, "-t", "red"), "clip-vit-b-32, which cir does not have", "-i ID")
    assert len(cli("query", index, "-i", "a/03.jpg", "--json").json["hits"]) == 10
    lines = b'{"references": ["a/03.jpg"]}\n{"text": "red"}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    batch = cli("query", index, "-")
    first, second = map(json.loads, batch.out.splitlines())
    assert batch.code == 2
    assert len(first["hits"]) == 10
    assert "which cir does not have" in second["error"]


def test_an_index_that_has_had_two_models_wants_the_name(
    cli: Run, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    vectors, ids, _ = files
    words = ("import", vectors, "--ids", ids, "-o", tmp_path / "i")
    build(folder_of(tmp_path / "photos", 2), tmp_path / "i", FakeEncoder("old-1", tokens=0))
    serve_new(tmp_path / "i", PROCRUSTES)
    mistake(cli(*words), "has had several models (new-1, old-1)", "--model NAME; it must be new-1")


def test_an_export_can_be_imported(
    cli: Run, wardrobe_index: Path, tiny_model: Path, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    index, out = tmp_path / "v.index", tmp_path / "out.npy"
    vectors, ids, table = files
    names = ("--ids", tmp_path / "out.txt", "--metadata", tmp_path / "out.csv")
    cli("import", vectors, "--ids", ids, "--metadata", table, "--id-column", "name", "-o", index, "--model", tiny_model)
    done = cli("export", index, "-o", out, *names)
    assert "19 vectors of tiny-1, 16 dims, float16" in done.out
    assert cli("import", out, *names, "-o", tmp_path / "again.index", "--model", tiny_model).code == 0
    exported = cli("export", tmp_path / "again.index", "-o", tmp_path / "again.npy", "--ids", tmp_path / "a.txt")
    assert "metadata is not in it (colour); --metadata writes it" in exported.out
    assert (tmp_path / "again.npy").read_bytes() == out.read_bytes()
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "out.txt").read_bytes()
    mistake(cli("export", index, "-o", out, *names), "exists; --overwrite replaces it")
    assert cli("export", index, "-o", tmp_path / "v.parquet", "--json").json["vectors"] == 19
    assert cli("import", tmp_path / "v.parquet", "-o", index).code == 0
    assert cli("export", wardrobe_index, "-o", tmp_path / "folder").code == 0
    mistake(cli("import", tmp_path / "folder" / "vectors.npy", "--ids", ids, "-o", wardrobe_index), "20 ids for the 40")
    mistake(
        cli(
            "import",
            tmp_path / "folder" / "vectors.npy",
            "--ids",
            tmp_path / "folder" / "ids.txt",
            "-o",
            wardrobe_index,
        ),
        "holds 4 tokens for each image",
    )
