"""Benchmarks of one's own pictures: what is read, and every line that is refused."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cir.data.jsonl import MEASURES, SUBSET_MEASURES, load_jsonl
from cir.errors import DataError, MissingImageError
from cir.stats import parse_measure

GOOD: dict[str, Any] = {
    "id": "q1",
    "reference": "a.jpg",
    "caption": "in red",
    "targets": ["b.jpg", "sub/c d.png"],
}
NAMES = ["a.jpg", "b.jpg", "e.jpg", "sub/c d.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of files with names of images; nothing decodes them here."""
    folder = tmp_path / "images"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def write(root: Path, *lines: object) -> Path:
    path = root.parent / "mine.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_benchmark_from_a_folder(root: Path) -> None:
    second = {"id": "q2", "reference": "sub/c d.png", "caption": "", "targets": ["e.jpg", "e.jpg"]}
    benchmark = load_jsonl(write(root, GOOD, "", second), root)
    assert (benchmark.name, benchmark.protocol, benchmark.absent) == ("mine", "jsonl/reference-removed", frozenset())
    assert benchmark.gallery == NAMES
    assert benchmark.measures == MEASURES
    assert not benchmark.keep_reference
    first, last = benchmark.queries
    assert (first.id, first.reference, first.caption) == ("q1", "a.jpg", "in red")
    assert first.targets == {"b.jpg", "sub/c d.png"}
    assert (first.groups, first.subset, first.headline) == ((), (), True)
    assert last.caption == ""
    assert last.targets == {"e.jpg"}


def test_the_same_from_a_zip(root: Path) -> None:
    archive = root.parent / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in NAMES:
            file.writestr(name, b"")
    path = write(root, GOOD)
    from_zip, from_folder = load_jsonl(path, archive), load_jsonl(path, root)
    assert from_zip.gallery == NAMES
    assert from_zip.gallery_sha256 == from_folder.gallery_sha256
    assert from_zip.queries == from_folder.queries


def test_a_query_by_text_alone(root: Path) -> None:
    (query,) = load_jsonl(write(root, {**GOOD, "reference": ""}), root).queries
    assert query.reference == ""


def test_kept_reference_may_be_a_target(root: Path) -> None:
    benchmark = load_jsonl(write(root, {**GOOD, "targets": ["a.jpg"]}), root, keep_reference=True)
    assert (benchmark.protocol, benchmark.keep_reference) == ("jsonl/reference-kept", True)


def test_names_in_any_form_are_one_name(root: Path) -> None:
    """macOS stores an accent apart from its letter; people type both as one."""
    (root / "caf\u00e9.jpg").write_bytes(b"")
    line = {
        **GOOD,
        "reference": "./cafe\u0301.jpg",
        "targets": ["sub//c d.png"],
        "subset": ["./b.jpg", "sub/./c d.png"],
    }
    (query,) = load_jsonl(write(root, line), root).queries
    assert (query.reference, query.subset) == ("caf\u00e9.jpg", ("b.jpg", "sub/c d.png"))


ODD = [None, True, -1, 3.5, "", "q1", "\0", "a.jpg", "/", "..", [], {}, ["a.jpg"], [[]], [""], {"a": 1}]


def test_whatever_a_line_holds_the_error_names_it(root: Path) -> None:
    rng = random.Random(0)
    for _ in range(300):
        values = GOOD | {key: rng.choice(ODD) for key in rng.sample([*GOOD, "subset", "x"], rng.randint(1, 3))}
        line = bytearray(json.dumps(values).encode())
        for _ in range(rng.choice([0, 0, 1, 2])):
            place = rng.randrange(len(line))
            line[place : place + rng.randrange(3)] = rng.choice(
                [b"[", b"}", b'"', b"\\u", b"NaN", b"\xff", b"\0", b"\r"]
            )
        path = root.parent / "any.jsonl"
        path.write_bytes(bytes(line))
        try:
            load_jsonl(path, root)
        except DataError as error:
            said = str(error)
            assert said.startswith((f"{path}:1: ", f"{path}:2: "))
            assert "\n" not in said


def test_subsets_bring_their_measures(root: Path) -> None:
    path = write(root, {**GOOD, "subset": ["e.jpg", "b.jpg", "e.jpg"]})
    benchmark = load_jsonl(path, root)
    assert benchmark.measures == MEASURES + SUBSET_MEASURES
    assert benchmark.queries[0].subset == ("e.jpg", "b.jpg")
    assert load_jsonl(path, root, measures=[parse_measure("Recall@5")]).measures == (parse_measure("Recall@5"),)


def test_a_gallery_list_limits_the_search_but_not_the_references(root: Path) -> None:
    benchmark = load_jsonl(write(root, GOOD), root, gallery=["sub/c d.png", "b.jpg"])
    assert benchmark.gallery == ["b.jpg", "sub/c d.png"]
    with pytest.raises(
        MissingImageError, match=r"mine.jsonl:1: targets names 'sub/c d.png', .* not in the gallery list"
    ):
        load_jsonl(write(root, GOOD), root, gallery=["b.jpg"])
    with pytest.raises(MissingImageError, match=r"2 images of the gallery list are missing, first 'y'"):
        load_jsonl(write(root, GOOD), root, gallery=["b.jpg", "z", "y"])


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", "not JSON, Expecting property name enclosed in double quotes at column 2"),
        ('{"id": "q2"', "not JSON"),
        ("[" * 200_000, "not JSON, nested too deeply"),
        ('{"id": ' + "1" * 5000 + "}", "not JSON"),
        ('["q2"]', "not a JSON object"),
        ("7", "not a JSON object"),
        (without("id"), "the key 'id' is missing"),
        (without("reference"), "the key 'reference' is missing"),
        (without("caption"), "the key 'caption' is missing"),
        (without("targets"), "the key 'targets' is missing"),
        ({**GOOD, "id": "q2", "Subset": []}, "unknown key 'Subset'; the keys are id,"),
        ({**GOOD, "id": "q2", "kind": 3}, "'kind' is a number"),
        ({**GOOD, "id": "q2", "negatives": "b.jpg"}, "'negatives' is a string"),
        ({**GOOD, "id": 2}, "'id' is a number; write a string"),
        ({**GOOD, "reference": None}, "'reference' is null; write a string"),
        ({**GOOD, "caption": ["in red"]}, "'caption' is a list; write a string"),
        ({**GOOD, "caption": {"en": "in red"}}, "'caption' is an object; write a string"),
        ({**GOOD, "targets": "b.jpg"}, "'targets' is a string; write a list"),
        ({**GOOD, "targets": ["b.jpg", 3]}, "'targets' is a list with values that are no strings; write a list"),
        ({**GOOD, "subset": True}, "'subset' is a boolean; write a list"),
        ({**GOOD, "id": ""}, "the id is empty"),
        ({**GOOD, "id": "q2", "targets": []}, "'targets' is empty"),
        ({**GOOD, "id": "q2", "reference": "", "caption": "  "}, "neither a reference nor a caption"),
        ({**GOOD, "id": "q2", "reference": "", "caption": "..."}, "neither a reference nor a caption"),
        (r'{"id": "\ud800", "reference": "", "caption": "a", "targets": ["b.jpg"]}', "id of a judged query"),
        (r'{"id": "q2", "reference": "", "caption": "\udfff", "targets": []}', "caption of a judged query"),
        ('{"id": 1e999}', "not JSON, a number as large as 1e999 is not a float"),
        (GOOD, "the id 'q1' was used before"),
        (
            {**GOOD, "id": "q2", "targets": ["b.jpg", "a.jpg"]},
            "the reference 'a.jpg' is a target but is removed",
        ),
        ({**GOOD, "id": "q2", "subset": ["b.jpg", "e.jpg"]}, "some queries have a subset, some have none"),
        ({**GOOD, "id": "q2", "subset": ["e.jpg"]}, "no target is in 'subset'"),
    ],
)
def test_a_bad_line_is_one_clear_error(root: Path, line: object, message: str) -> None:
    path = write(root, GOOD, "", line)
    with pytest.raises(DataError) as caught:
        load_jsonl(path, root)
    assert str(caught.value).startswith(f"{path}:3: {message}")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, MissingImageError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "A.jpg"}, "the reference 'A.jpg' is not in"),
        ({"targets": ["b.jpg", "z.jpg", "c d.png"]}, "targets names 'c d.png', which is not in"),
        ({"targets": ["b.jpg", "/b.jpg"]}, "targets names '/b.jpg', which is not in"),
        ({"reference": "a\0.jpg"}, "the reference 'a\\x00.jpg' is not in"),
        ({"subset": ["b.jpg", "../e.jpg"]}, "subset names '../e.jpg', which is not in"),
    ],
)
def test_unknown_image_names(root: Path, change: dict[str, Any], message: str) -> None:
    path = write(root, {**GOOD, **change})
    with pytest.raises(MissingImageError) as caught:
        load_jsonl(path, root)
    assert str(caught.value).startswith(f"{path}:1: {message} ")


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_a_file_without_queries(root: Path, lines: list[str]) -> None:
    with pytest.raises(DataError, match=r"mine.jsonl: no queries"):
        load_jsonl(write(root, *lines), root)


def test_files_that_are_not_there(root: Path) -> None:
    with pytest.raises(DataError, match=r"absent.jsonl: cannot be read"):
        load_jsonl(root / "absent.jsonl", root)
    with pytest.raises(DataError, match="no such file or folder"):
        load_jsonl(write(root, GOOD), root / "absent")
