"""Every command on an index in a store: it works, or says in one line that it needs an index on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.writing.backfill import backfill
from cir.indexer.writing.serve import serve_model
from cir.testing import two_models
from cir.testing.commands import Run, mistake
from cir.testing.fakes import build, paint

Machine = Callable[[str], None]


def test_commands(
    cli: Run, bucket: str, index: str, photos: Path, tiny_model: Path, tmp_path: Path, machine: Machine
) -> None:
    dirs = ["--model-dir", tiny_model.parent]

    def run(command: str, *words: object, code: int = 0) -> str:
        outcome = cli(command, *words)
        assert outcome.code == code, outcome
        return outcome.out + outcome.err

    assert f"{index}: 20 images (20 added)" in run("build-index", photos, "-o", index, "--model", tiny_model)
    machine("other")
    paint(photos / "more.png", 700)
    assert "21 images (1 added, 20 unchanged)" in run("build-index", photos, "-o", index, *dirs)
    assert cli("info", index, "--json").json["path"] == index
    hits = cli("query", index, "-i", "0003.png", "-t", "red", "--json", *dirs).json["hits"]
    assert len(hits) == 10
    assert run("explain", index, "-i", "0003.png", "-t", "red", "--json", *dirs)
    assert run("verify", index, *dirs) == (
        f"{index}: 21 images, 0 judged queries, no problems\ncir: not checked: skipped.jsonl, LOCK\n"
    )
    run("export", index, "-o", tmp_path / "exported")
    vectors = ["import", tmp_path / "exported" / "vectors.npy", "--ids", tmp_path / "exported" / "ids.txt"]
    assert f"{bucket}/imported: 21 images" in run(*vectors, "-o", f"{bucket}/imported", "--foreign-model", "theirs")
    machine("third")
    assert f"{index}: 1 image removed; 20 left" in run("remove", index, "more.png")
    assert "generation 4 restores generation 2: 21 images" in run("rollback", index)
    assert f"{index}: " in run("compact", index)
    assert f"{index}: 0 judged queries" in run("questions", index)
    assert "0 images encoded again" in run("backfill", index, *dirs)
    run("build-index", photos, "-o", tmp_path / "local.index", "--model", tiny_model)
    assert "21 images" in run("merge", index, tmp_path / "local.index", "-o", tmp_path / "merged.index")
    for words in (
        ["repair", index],
        ["merge", index, tmp_path / "local.index", "-o", f"{bucket}/merged"],
    ):
        mistake(cli(*words), "needs an index on disk, not one in an object store")
    mistake(cli("build-index", photos, "-o", "gs://bucket/x"), "s3://BUCKET/PREFIX")
    mistake(cli("query", f"{bucket}/nothing", "-t", "red"), f"no CURRENT in {bucket}/nothing")


@pytest.mark.long
def test_another_model_serves_and_encodes_again(index: str, photos: Path, out: Path, machine: Machine) -> None:
    for place in (Path(index), out):
        machine("writer")
        build(photos, place, two_models.OLD)
        serve_model(place, two_models.NEW, {two_models.OLD.card.space.id: two_models.RIDGE}, generation=1)
    machine("reader")
    there, here = Gallery.open(index), Gallery.open(out)
    assert there.card.digest == two_models.NEW.card.digest
    options = RankingOptions(20)
    expected = here.search(two_models.mapped_queries(here), options)
    assert there.search(two_models.mapped_queries(there), options) == expected
    machine("encoder")
    for place in (Path(index), out):
        assert [state.left for state in backfill(place, two_models.NEW, part=12)] == [8, 0]
    machine("reader")
    there, here = Gallery.open(index), Gallery.open(out)
    assert there.search(two_models.mapped_queries(there), options) == here.search(
        two_models.mapped_queries(here), options
    )
    assert there.manifest.generation == here.manifest.generation
