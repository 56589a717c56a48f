"""Builds by processes of a cluster: the index of one process, whoever is lost meanwhile."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cir
from cir import errors
from cir.cluster.process import EncodingProcess
from cir.cluster.session import joined
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.writing.segment_tasks import Recipe, SegmentResult, SegmentTask
from cir.testing.fakes import FakeEncoder, answer, build, folder_of, paint

pytest.importorskip("ray").cloudpickle.register_pickle_by_value(sys.modules[__name__])  # processes lack this file

ROWS = 8
Make = Callable[..., Any]


def digests(out: Path) -> list[str]:
    """Of the segments of the live generation."""
    return [each.files["gallery.h5"].sha256 for each in live(out).segments]


def live(out: Path) -> Manifest:
    return read_manifest(IndexFolder(out))


def same(out: Path, wanted: Path) -> bool:
    """Whether an index is whole and equals another, byte for byte, and nothing of its making is left."""
    tidy = not (out / "work").exists() and len(list((out / "segments").iterdir())) == len(live(out).segments)
    return tidy and verify(out) == [] and digests(out) == digests(wanted) and answer(out) == answer(wanted)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.long)])
def test_processes_make_the_index_of_one(spread: Make, photos: Path, tmp_path: Path, processes: int) -> None:
    (photos / "broken.png").write_text("no picture")
    shutil.copy(photos / "0002.png", photos / "again.png")
    metadata = {"0003.png": {"colour": "red"}}
    one = build(photos, tmp_path / "one.index", metadata=metadata, segment_rows=ROWS)
    many = build(photos, tmp_path / "many.index", metadata=metadata, segment_rows=ROWS, spread=spread(processes))
    assert (many.added, many.skipped, many.total) == (one.added, one.skipped, one.total)
    assert same(tmp_path / "many.index", tmp_path / "one.index")
    skipped = [(tmp_path / name / "skipped.jsonl").read_text() for name in ("one.index", "many.index")]
    assert skipped[0] == skipped[1]
    assert "broken.png" in skipped[0]


def test_a_gallery_of_zips_and_tars(spread: Make, photos: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.make_archive(str(shards / "more"), "zip", photos)
    with tarfile.open(shards / "0.tar", "w") as archive:
        for path in sorted(photos.iterdir()):
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    build(shards, tmp_path / "one.index", segment_rows=ROWS)
    report = build(shards, tmp_path / "many.index", segment_rows=ROWS, spread=spread())
    assert report.total == 40
    assert same(tmp_path / "many.index", tmp_path / "one.index")


@pytest.mark.long
def test_bringing_up_to_date(spread: Make, photos: Path, tmp_path: Path) -> None:
    for name, where in (("one.index", None), ("many.index", spread())):
        shutil.rmtree(photos)
        folder_of(photos, 20)
        out = tmp_path / name
        build(photos, out, segment_rows=ROWS, spread=where, metadata={"0005.png": {"colour": "red"}})
        (photos / "0005.png").rename(photos / "zz.png")
        paint(photos / "0007.png", 700)
        folder_of(photos / "more", ROWS, 300)
        report = build(photos, out, segment_rows=ROWS, spread=where, prune=True)
        assert (report.renamed, report.updated) == ([("0005.png", "zz.png")], ["0007.png"])
    assert digests(tmp_path / "one.index") == digests(tmp_path / "many.index")
    assert answer(tmp_path / "one.index") == answer(tmp_path / "many.index")


def dying(tmp: Path) -> FakeEncoder:
    """An encoder whose process is killed at its third batch, unless one was before."""

    class Dying(FakeEncoder):
        def encode_images(self, pixels: Any) -> Any:
            if len(self.batches) == 2:
                try:
                    (tmp / "died").touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().encode_images(pixels)

    return Dying()


def test_a_lost_process_loses_nothing(spread: Make, photos: Path, tmp_path: Path) -> None:
    build(photos, tmp_path / "one.index", segment_rows=ROWS)
    working = spread(make_encoder=partial(dying, tmp_path))
    report = build(photos, tmp_path / "many.index", segment_rows=ROWS, spread=working)
    assert working.lost == 1
    assert report.total == 20
    assert same(tmp_path / "many.index", tmp_path / "one.index")


class Fatal(FakeEncoder):
    """An encoder whose process never survives the picture of seed 9."""

    def preprocess(self, image: Any) -> Any:
        pixels = super().preprocess(image)
        if image.getpixel((0, 0)) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels


def fatal(pixel: tuple[int, ...]) -> FakeEncoder:
    encoder = Fatal()
    encoder.fatal = pixel  # type: ignore[attr-defined]
    return encoder


@pytest.mark.long
def test_a_picture_that_kills_every_process_is_named_and_the_rest_is_resumed(
    spread: Make, photos: Path, tmp_path: Path
) -> None:
    from PIL import Image

    pixel = Image.open(photos / "0009.png").getpixel((0, 0))
    out = tmp_path / "many.index"
    with pytest.raises(errors.DataError, match=r"lost while they encoded 0008\.png to 0015\.png") as caught:
        build(photos, out, segment_rows=ROWS, spread=spread(make_encoder=partial(fatal, pixel)))
    assert "\n" not in str(caught.value)
    encoder = FakeEncoder()
    report = build(photos, out, encoder, segment_rows=ROWS)
    assert report.resumed == 12
    assert encoder.encoded == 8
    build(photos, tmp_path / "one.index", segment_rows=ROWS)
    assert same(out, tmp_path / "one.index")


def other_model() -> FakeEncoder:
    return FakeEncoder("fake-2")


def refusing() -> FakeEncoder:
    raise errors.WeightsError("no model here; copy it")


def test_what_a_process_refuses_is_said_in_its_words(spread: Make, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "many.index"
    for make_encoder, said in ((other_model, "is not the model of the index"), (refusing, "no model here; copy it")):
        with pytest.raises(errors.WeightsError, match=said) as caught:
            build(photos, out, spread=spread(make_encoder=make_encoder))
        assert "\n" not in str(caught.value)


class Noted:
    """Notes what is asked of a `Spread`, and makes it here."""

    def __init__(self) -> None:
        self.asked: list[tuple[SegmentTask, Recipe]] = []

    def batch_size(self, photos: Any, layout: Any) -> int:
        return 4

    def make(self, tasks: Sequence[SegmentTask], recipe: Recipe) -> Iterator[SegmentResult]:
        worker = EncodingProcess(FakeEncoder, 1, False, cir.__version__)
        for task in tasks:
            self.asked.append((task, recipe))
            yield worker.make(task, recipe, [])


def test_processes_are_told_the_whole_path_and_write_to_no_other_index(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spread = Noted()
    build(photos, Path("x.index"), segment_rows=ROWS, spread=spread)
    task, recipe = spread.asked[0]
    assert recipe.index == str(tmp_path / "x.index")  # a process of a cluster runs in a folder of its own
    worker = EncodingProcess(FakeEncoder, 1, False, cir.__version__)
    before = digests(tmp_path / "x.index")
    with pytest.raises(errors.DataError, match=r"has another folder at .*x\.index; mount the same one there"):
        worker.make(task, recipe, [])  # a later build may write there, or another index be mounted
    assert digests(tmp_path / "x.index") == before


def test_sigterm_ends_a_build_as_ctrl_c_does(photos: Path, tmp_path: Path) -> None:
    words = ["build-index", str(photos), "-o", str(tmp_path / "x.index"), "--ray", "local", "--processes", "1"]
    code = (
        "import os, signal, sys, cir.cluster.encoding as encoding, cir.cli\n"
        "def batch_size(self, photos, layout): os.kill(os.getpid(), signal.SIGTERM)\n"
        "encoding.RaySpread.batch_size = batch_size\n"
        "cir.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 143, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "cir: stopped" in done.stderr


def test_addresses_and_a_missing_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.UsageError, match="local, auto, or HOST:PORT"), joined("everywhere"):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.MissingDependencyError, match=r"pip install 'cir-engine\[ray\]'"), joined("local"):
        pass


def test_ray_is_imported_for_nobody_who_does_not_ask(photos: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import cir, cir.cli; from cir.testing.fakes import build;"
        f"build(Path({str(photos)!r}), Path({str(tmp_path / 'x.index')!r}), segment_rows=8);"
        "print([name for name in ('ray', 'obstore', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
