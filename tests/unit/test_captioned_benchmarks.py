"""Benchmarks of captioned photos: what is read, what is refused, and the data manifest of the real ones."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from cir.data import captioned_benchmarks
from cir.data.benchmark import COMPOSED, TEXT, ids_sha256
from cir.data.captioned import Captions, read_split
from cir.data.captioned_benchmarks import SPLITS, load_captioned, load_mined
from cir.data.check import read_data_manifest
from cir.data.mining import MinedChange
from cir.data.mining.changes import KINDS
from cir.errors import DataError, MissingImageError
from cir.files import sha256_file

TABLE = """\
image,caption
a.jpg,A dog in the snow .
a.jpg,"A black dog , running ."
b.jpg,Two dogs .
c.jpg,A dog in the snow .
d.jpg,A boat .
"""


SNOW = MinedChange(
    reference="b.jpg",
    targets=("a.jpg", "c.jpg"),
    kind="place",
    old="grass",
    new="snow",
    of="",
    subject="dog",
    several=False,
    captions=("Two dogs .", "A dog in the snow ."),
    negatives=(),
    agreement=1.0,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four captioned photos, three of them of the split val; nothing decodes them here."""
    folder = tmp_path / "captioned"
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(b"")
    (folder / "captions.csv").write_text(TABLE)
    (folder / "val.txt").write_text("c.jpg\na.jpg\nb.jpg\n")
    (folder / "test.txt").write_text("d.jpg\n")
    return folder


def test_every_caption_asks_for_its_photo(root: Path) -> None:
    benchmark = load_captioned(root)
    assert (benchmark.name, benchmark.protocol) == ("flickr8k", "flickr8k-val/text-to-image")
    assert sorted(benchmark.gallery) == ["a.jpg", "b.jpg", "c.jpg"]
    assert benchmark.form == TEXT
    assert [str(measure) for measure in benchmark.measures] == ["R@1", "R@5", "R@10", "R@50"]
    assert {query.id: (query.caption, *query.targets) for query in benchmark.queries} == {
        "a.jpg#0": ("A dog in the snow .", "a.jpg"),
        "a.jpg#1": ("A black dog , running .", "a.jpg"),
        "b.jpg#0": ("Two dogs .", "b.jpg"),
        "c.jpg#0": ("A dog in the snow .", "c.jpg"),
    }
    assert load_captioned(root, split="test").gallery == ["d.jpg"]
    with pytest.raises(DataError, match=r"train\.txt"):
        load_captioned(root, split="train")


def test_mined_changes_ask_for_the_photos_that_show_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Captions] = []

    def mine(captions: Captions, *, seed: int) -> list[MinedChange]:
        given.append(captions)
        return [SNOW]

    monkeypatch.setattr(captioned_benchmarks, "mine", mine)
    benchmark = load_mined(root)
    assert given == [read_split(root, "val")]  # nothing of another split
    assert (benchmark.name, benchmark.protocol) == ("flickr8k-mined", "flickr8k-mined-val")
    assert [str(measure) for measure in benchmark.measures] == ["R@1", "R@10", "R@50", "mAP@10"]
    assert sorted(benchmark.gallery) == ["a.jpg", "b.jpg", "c.jpg"]
    assert (benchmark.form, benchmark.keep_reference, benchmark.groups) == (COMPOSED, False, ["place"])
    (query,) = benchmark.queries
    assert (query.reference, query.targets, query.kind) == ("b.jpg", {"a.jpg", "c.jpg"}, "place")
    assert "snow" in query.caption

    (root / "photos").mkdir()
    (root / "images").rename(root / "photos" / "of-val")
    with zipfile.ZipFile(root / "all.zip", "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"images/{name}.jpg", "")
    (zipped,) = load_mined(root, allow_missing=True).queries
    assert (zipped.reference, zipped.targets) == ("images/b.jpg", {"images/a.jpg", "c.jpg"})
    assert zipped.first_target == "images/a.jpg"


def test_too_few_photos_give_no_mined_queries(root: Path) -> None:
    with pytest.raises(DataError, match=r"the 3 photos of val give no mined queries; take more photos"):
        load_mined(root)


def test_the_same_from_a_zip(root: Path) -> None:
    with zipfile.ZipFile(root / "small.zip", "w") as archive:
        for name in ("a", "b", "c"):
            archive.writestr(f"images/{name}.jpg", "")
    chosen = load_captioned(root, images="small.zip")
    assert sorted(chosen.gallery) == ["images/a.jpg", "images/b.jpg", "images/c.jpg"]
    assert [query.targets for query in chosen.queries if query.id == "b.jpg#0"] == [{"images/b.jpg"}]
    shutil.rmtree(root / "images")
    assert load_captioned(root).gallery == chosen.gallery


def test_missing_photos_are_an_error_or_misses(root: Path) -> None:
    (root / "images" / "b.jpg").unlink()
    with pytest.raises(MissingImageError, match=r"1 of the 3 photos in val.txt are missing, first b.jpg; .*--allow-m"):
        load_captioned(root)
    benchmark = load_captioned(root, allow_missing=True)
    assert benchmark.absent == {"b.jpg"}
    assert len(benchmark.queries) == 4
    for name in ("a", "c", "d", "e"):
        (root / "images" / f"{name}.jpg").unlink()
    with pytest.raises(MissingImageError, match="3 of the 3 photos"):
        load_captioned(root, allow_missing=True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val.txt", "a.jpg\nx.jpg\n", r"val\.txt:2: 'x\.jpg' has no captions"),
        ("val.txt", "", "lists no photos"),
        ("captions.csv", "image,text\na.jpg,x\n", "no column 'caption'"),
        ("captions.csv", "image,caption\n", "no captions"),
    ],
)
def test_what_is_wrong_is_named(root: Path, file: str, content: str, message: str) -> None:
    (root / file).write_text(content)
    with pytest.raises(DataError, match=message):
        load_captioned(root)


def test_one_name_for_two_photos_is_refused(root: Path) -> None:
    for folder in ("one", "two"):
        (root / "images" / folder).mkdir()
        shutil.copy(root / "images" / "a.jpg", root / "images" / folder)
    assert load_captioned(root).gallery == ["c.jpg", "a.jpg", "b.jpg"]  # the whole name fits one of them
    (root / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg in val\.txt may be one/a\.jpg or two/a\.jpg"):
        load_captioned(root)


@pytest.mark.slow
def test_the_real_files_are_those_of_the_manifest(shared: Path) -> None:
    root, manifest = shared / "data" / "flickr8k", read_data_manifest("flickr8k")
    if not root.is_dir():
        pytest.skip("needs ../shared/data/flickr8k, which is not here")
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (root / name).stat().st_size, "sha256": sha256_file(root / name)}
    for split in SPLITS:
        benchmark, entry = load_captioned(root, split=split), manifest["splits"]["images-224"][split]
        assert (len(benchmark.gallery), len(benchmark.queries)) == (entry["images"], entry["captions"])
        assert benchmark.gallery_sha256 == ids_sha256(benchmark.gallery) == entry["sha256"]


@pytest.mark.slow
def test_the_real_captions_give_questions_of_every_kind(shared: Path) -> None:
    root = shared / "data" / "flickr8k"
    if not root.is_dir():
        pytest.skip("needs ../shared/data/flickr8k, which is not here")
    for split, entry in read_data_manifest("flickr8k")["mined"].items():  # other rules: measure again, then note them
        mined = load_mined(root, split=split)
        assert entry == {"queries": len(mined.queries), "sha256": mined.queries_sha256}
    benchmark = load_mined(root)
    assert len(benchmark.queries) >= 500
    assert set(benchmark.groups) == set(KINDS)
    assert benchmark.gallery_sha256 == load_captioned(root).gallery_sha256
    for query in benchmark.queries:
        assert query.reference not in query.targets
        assert query.caption
