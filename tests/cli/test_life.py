"""`cir remove`, `cir compact` and `cir merge`: what they print, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cir.indexer.reading.gallery import Gallery
from cir.testing.commands import Run


@pytest.fixture
def own(wardrobe_index: Path, tmp_path: Path) -> Path:
    """A copy of the index of garments."""
    return Path(shutil.copytree(wardrobe_index, tmp_path / "own.index"))


def test_remove(cli: Run, own: Path, tmp_path: Path) -> None:
    names = Gallery.open(own).ids
    done = cli("remove", own, names[0], names[0])
    assert (done.code, done.out) == (0, f"{names[0]}\n")
    assert "1 image removed; 39 left" in done.err
    assert f"`cir rollback {own}` brings it back" in done.err
    listed = tmp_path / "ids.txt"
    listed.write_text("\ufeff" + "\r\n".join([*names[1:4], ""]), encoding="utf-8")
    assert cli("remove", own, "--ids", listed, "--dry-run").out.split() == names[1:4]
    assert json.loads(cli("remove", own, "--ids", listed, "--json").out)["images"] == 36
    again = cli("remove", own, names[5], "--ids", listed)
    assert (again.code, again.out) == (2, "")
    assert f"does not hold '{names[1]}'" in again.err
    assert names[5] in Gallery.open(own)
    colour = Gallery.open(own).image(names[5]).metadata["colour"]
    assert names[5] in cli("remove", own, "--where", f"colour={colour}").out.split()
    assert cli("remove", own, "--missing").out == ""
    assert cli("remove", own).code == 2
    assert "cannot be read" in cli("remove", own, "--ids", tmp_path / "none.txt").err


def test_compact(cli: Run, own: Path) -> None:
    cli("remove", own, *Gallery.open(own).ids[:3])
    done = cli("compact", own)
    assert "1 segment became 1, 3 deleted rows dropped; 37 images" in done.out
    assert f"2 earlier generations hold 0.0 MB more; `cir compact {own} --keep 0` removes them" in done.out
    assert cli("compact", own).out.startswith(f"{own}: nothing to do; 37 images, 0.")
    assert cli("compact", own, "--keep", "7").out.startswith(f"{own}: no segments to join and no rows to drop; 37 ")
    report = json.loads(cli("compact", own, "--keep", "0", "--json").out)
    assert (report["earlier"], report["earlier_bytes"], report["images"]) == (0, 0, 37)


def test_merge(cli: Run, own: Path, wardrobe_index: Path, tmp_path: Path) -> None:
    cli("remove", own, *Gallery.open(own).ids[:3])
    done = cli("merge", own, wardrobe_index, "-o", tmp_path / "all.index")
    assert f"{tmp_path / 'all.index'}: 40 images" in done.out
    assert "37 were in several indexes, and are one each" in done.out
    refused = cli("merge", own, wardrobe_index, "-o", tmp_path / "all.index")
    assert refused.code == 2
    assert "exists and holds" in refused.err
    assert json.loads(cli("merge", own, wardrobe_index, "-o", tmp_path / "2.index", "--json").out)["twice"] == 37
