"""The official benchmarks: the content of annotation files, counts, missing pictures, data manifests."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cir.cli import benchmarks
from cir.data.annotations import read_entries, read_names
from cir.data.benchmark import ids_sha256
from cir.data.check import UNKNOWN, check_data, read_data_manifest
from cir.data.fashioniq import join_captions
from cir.data.protocols import PROTOCOLS, TRAIN_SPLITS, load_official
from cir.errors import DataError, MissingImageError
from cir.eval.render import render
from cir.eval.report import make_report

COUNTS = {  # specs of the protocols: queries, images
    "fashioniq-val": ({"dress": (2017, 3817), "shirt": (2038, 6346), "toptee": (1961, 5373)}, 15415),
    "fashioniq-val-union": ({"dress": (2017, 2628), "shirt": (2038, 3089), "toptee": (1961, 2902)}, 8582),
    "cirr-val": ({"": (4181, 2297)}, 2297),
    "cirr-test1": ({"": (4148, 2315)}, 2315),
    "circo-val": ({"": (220, 0)}, 0),
    "circo-test": ({"": (800, 0)}, 0),
    "genecis-focus-object": ({"focus-object": (1960, 2192)}, 2192),
    "genecis-change-object": ({"change-object": (1960, 2734)}, 2734),
    "shoes-eval": ({"": (1761, 4658)}, 4658),
}


def folder_of(name: str) -> str:
    return name.split("-")[0]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_real_annotations(shared: Path, name: str) -> None:
    benchmark = load_official(name, shared / "data" / "annotations" / folder_of(name), pictures=False)
    galleries, images = COUNTS[name]
    queries = {part: sum(query.gallery == part for query in benchmark.queries) for part in galleries}
    assert {part: (queries[part], len(benchmark.galleries[part])) for part in galleries} == galleries
    assert len(benchmark.gallery) == images
    assert len({query.id for query in benchmark.queries}) == len(benchmark.queries)
    manifest = read_data_manifest(PROTOCOLS[name].split)
    expected = manifest["benchmarks"][name]
    assert expected["protocol"] == benchmark.protocol
    assert expected["queries"] == len(benchmark.queries)
    assert expected["images"] == (images or 123_403)
    assert expected["sha256"] == benchmark.gallery_sha256
    for part, entry in expected.get("galleries", {}).items():
        ids = benchmark.galleries[part]
        assert entry == {"queries": queries[part], "images": len(ids), "sha256": ids_sha256(ids)}
    for file in expected.get("files", manifest["files"]):
        entry = manifest["files"][file]
        data = (shared / "data" / "annotations" / folder_of(name) / file).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_the_command_line_names_every_protocol() -> None:
    assert tuple(PROTOCOLS) == benchmarks.OFFICIAL
    assert tuple(TRAIN_SPLITS) == benchmarks.TRAIN_SPLITS
    for name, protocol in PROTOCOLS.items():
        assert (protocol.name, protocol.judged) == (name, name not in ("cirr-test1", "circo-test"))
        assert set(protocol.headline) <= set(protocol.measures)
        assert name in read_data_manifest(protocol.split)["benchmarks"]


def test_the_train_splits_have_manifests_too(shared: Path, tmp_path: Path) -> None:
    annotations = shared / "data" / "annotations"
    found = check_data("fashioniq-train", annotations / "fashioniq")
    assert set(found.files.values()) == {"ok"}
    assert (found.ids, found.problem, len(found.missing)) == (True, "", found.images)
    assert found.manifest["benchmarks"]["fashioniq-train"]["queries"] == 18_000
    root, split = tmp_path / "cirr", Path("image_splits", "split.rc2.train.json")
    for folder in ("captions", "image_splits"):
        (root / folder).mkdir(parents=True)
    (root / split).write_bytes((annotations / "cirr" / split).read_bytes())
    found = check_data("cirr-train", root)
    assert found.files["captions/cap.rc2.train.json"] == "missing"
    assert found.files["image_splits/split.rc2.train.json"] == "ok"
    assert "cap.rc2.train.json" in found.problem
    entry = {"pairid": 1, "reference": "train-11041-2-img0", "target_hard": "train-11041-0-img1", "caption": "older"}
    (root / "captions" / "cap.rc2.train.json").write_text(json.dumps([entry]))
    found = check_data("cirr-train", root)
    assert (found.ids, found.problem, len(found.missing)) == (True, "", 16_939)
    assert found.files["captions/cap.rc2.train.json"] == UNKNOWN


def test_fashioniq_is_three_benchmarks_in_one(official_data: Path) -> None:
    split = load_official("fashioniq-val", official_data / "fashioniq")
    union = load_official("fashioniq-val-union", official_data / "fashioniq")
    assert (split.protocol, union.protocol) == ("fashioniq-val/split", "fashioniq-val/val-union")
    assert all(union.galleries[part] < split.galleries[part] for part in ("dress", "shirt", "toptee"))
    assert split.keep_reference
    assert [query.id for query in split.queries][:2] == ["dress-0", "dress-1"]
    assert split.queries[8].id == "shirt-0"
    assert split.queries[1].caption == "Is red and has 1 stripes"
    suffixes = {Path(image.path).suffix for image in split.images}
    assert suffixes == {".png", ".jpg"}
    run = {query.id: [(min(query.targets), 1.0)] for query in split.queries[::3]}
    report = make_report(split, {"composed": run}, model={}, seconds=0)
    parts = [report.groups[part] for part in ("dress", "shirt", "toptee")]
    for name in ("R@10", "R@50"):
        assert report.metrics[name].value == pytest.approx(np.mean([part[name].value for part in parts]))
    assert report.headline is not None
    assert report.headline.name == "(R@10 + R@50) / 2"
    both = [report.metrics[name].value for name in ("R@10", "R@50")]
    assert report.headline.figure.value == pytest.approx(np.mean(both))
    assert report.gallery.images == 55  # the categories share images
    assert [part.images for part in report.gallery.parts.values()] == [20, 20, 20]


def test_empty_captions_are_joined_as_the_official_code_does() -> None:
    assert join_captions(["", "is an off the shoulder top"]) == " and is an off the shoulder top"
    assert join_captions([" ?It, is. ", "b"]) == "It, is and b"


def test_circo_without_the_list_of_coco(official_data: Path, tmp_path: Path) -> None:
    shutil.copytree(official_data / "circo" / "annotations", tmp_path / "annotations")
    benchmark = load_official("circo-val", tmp_path, pictures=False)
    report = make_report(benchmark, {"composed": {"0": [("42", 1.0)]}}, model={}, seconds=0)
    assert report.gallery.to_json() == {"images": 123_403, "sha256": None}
    for wrong in ("000000000042", "cat.jpg", "¹"):
        with pytest.raises(DataError, match="1 images are not in benchmark circo-val"):
            make_report(benchmark, {"composed": {"0": [(wrong, 1.0)]}}, model={}, seconds=0)
    with pytest.raises(DataError, match=r"image_info_unlabeled2017\.json: cannot be read .*cir data check"):
        load_official("circo-val", tmp_path)


def test_missing_pictures(official_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "fashioniq"
    shutil.copytree(official_data / "fashioniq", root)
    for picture in (root / "images").glob("B00[0-2].*"):
        picture.unlink()
    with pytest.raises(MissingImageError, match=r"3 of 55 images .* first .*B000 \(\.png or \.jpg\).*--allow-missing"):
        load_official("fashioniq-val", root)
    benchmark = load_official("fashioniq-val", root, allow_missing=True)
    assert benchmark.absent == {"B000", "B001", "B002"}
    assert not benchmark.absent & set(benchmark.gallery)
    report = make_report(benchmark, {"composed": {}}, model={"name": "m"}, seconds=0)
    assert report.missing == 3
    assert {figure.missing for figures in report.groups.values() for figure in figures.values()} == {3}
    lines = render(report).splitlines()
    assert "3 MISSING" in lines[0]
    assert lines[2].endswith("missing")
    assert [line.split()[-1] for line in lines[3:] if "±" in line] == ["3"] * 4
    shutil.rmtree(root / "images")
    with pytest.raises(MissingImageError, match="55 of 55"):
        load_official("fashioniq-val", root, allow_missing=True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("cirr/cirr/captions/cap.rc2.val.json", "{", "not JSON"),
        ("cirr/cirr/captions/cap.rc2.val.json", "{}", "not a list"),
        ("cirr/cirr/captions/cap.rc2.val.json", "[]", "no entries"),
        ("cirr/cirr/captions/cap.rc2.val.json", '[{"pairid": "1"}]', "entry 0 has no 'pairid' of type int"),
        ("cirr/cirr/captions/cap.rc2.val.json", "[1]", "entry 0 has no 'pairid'"),
        (
            "cirr/cirr/captions/cap.rc2.val.json",
            '[{"pairid": 1, "reference": "", "caption": "", "img_set": {}, "target_hard": "", "target_soft": {}}]',
            "entry 0 has no 'members'",
        ),
        ("cirr/cirr/image_splits/split.rc2.val.json", '{"a": 1}', "not a table"),
        ("cirr/cirr/image_splits/split.rc2.val.json", '{"a": "a.png"}', "names 'dev-.*', which is not in the gallery"),
        ("fashioniq/image_splits/split.dress.val.json", '["a", 1]', "not a list of image names"),
        ("fashioniq/captions/cap.dress.val.json", None, "cannot be read .* --data-root is the data set's own folder"),
        ("circo/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", '{"images": {}}', "no entries"),
    ],
)
def test_broken_annotations(official_data: Path, tmp_path: Path, file: str, content: str | None, message: str) -> None:
    shutil.copytree(official_data, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    name = {"cirr": "cirr-val", "fashioniq": "fashioniq-val", "circo": "circo-val"}[file.split("/")[0]]
    with pytest.raises(DataError, match=message):
        load_official(name, tmp_path / folder_of(name))


def test_readers_of_plain_lists(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('["x"]')
    assert read_names(tmp_path / "a") == ["x"]
    with pytest.raises(DataError, match="not an object"):
        read_entries(tmp_path / "a", {"id": int}, within="images")


def test_what_of_the_data_is_there(official_data: Path, tmp_path: Path) -> None:
    found = check_data("cirr-val", official_data / "cirr")
    assert set(found.files.values()) == {"not the official file"}
    assert (found.ids, found.missing, found.complete) == (False, (), False)
    (tmp_path / "images").mkdir()
    nothing = check_data("fashioniq-val", tmp_path)
    assert set(nothing.files.values()) == {"missing"}
    assert "cap.dress.val.json: cannot be read" in nothing.problem
    circo = check_data("circo-test", official_data / "circo")
    assert circo.ids is False  # by their number, where there is no digest
    with pytest.raises(DataError, match="no such folder"):
        check_data("circo-val", tmp_path / "gone")


@pytest.mark.slow
def test_real_annotations_with_pictures_are_complete(shared: Path, tmp_path: Path) -> None:
    annotations = shared / "data" / "annotations" / "cirr"
    for folder in ("captions", "image_splits"):
        (tmp_path / folder).symlink_to(annotations / folder)
    (tmp_path / "dev").mkdir()
    for image in PROTOCOLS["cirr-val"].read(tmp_path, True).places:
        (tmp_path / "dev" / f"{image}.png").touch()
    assert check_data("cirr-val", tmp_path).complete
    (tmp_path / "dev" / "dev-1-0-img1.png").unlink()
    found = check_data("cirr-val", tmp_path)
    assert not found.complete
    assert [Path(place).name for place in found.missing] == ["dev-1-0-img1"]
