"""CIRR: one gallery a split, the reference removed; each query also ranks the six images of its `img_set`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from cir.errors import DataError
from cir.data.annotations import Annotated, Triplet, Triplets, read_entries, read_files
from cir.data.benchmark import Benchmark, JudgedQuery
from cir.stats import parse_measure

MEASURES = tuple(map(parse_measure, ("R@1", "R@5", "R@10", "R@50", "Rs@1", "Rs@2", "Rs@3")))
HEADLINE = (parse_measure("R@5"), parse_measure("Rs@1"))


def read_cirr(root: Path, split: str) -> Annotated:
    """CIRR in its official layout: `cirr/captions` and `cirr/image_splits`, or the two directly; `dev/`, `test1/`.

    Args:
        root: the data set's folder.
        split: "val", or "test1", whose targets are not public.

    Raises:
        DataError: an annotation file is missing or not what it should be.
    """
    annotations = _annotations(root)
    judged = split != "test1"
    path = annotations / "image_splits" / f"split.rc2.{split}.json"
    files = read_files(path)
    path = annotations / "captions" / f"cap.rc2.{split}.json"
    keys: dict[str, type] = {"pairid": int, "reference": str, "caption": str, "img_set": dict}
    entries = read_entries(path, keys | ({"target_hard": str, "target_soft": dict} if judged else {}))
    for number, entry in enumerate(entries):
        if not isinstance(entry["img_set"].get("members"), list):
            raise DataError(f"{path}: entry {number} has no 'members' in its 'img_set'; take the official file again")
    benchmark = Benchmark(
        name=f"cirr-{split}",
        protocol=f"cirr-{split}",
        images=(),
        queries=tuple(_query(entry, judged) for entry in entries),
        measures=MEASURES,
        galleries={"": frozenset(files)},
        headline=HEADLINE,
        judged=judged,
    )
    return Annotated(benchmark, _places(root, files))


def read_cirr_train(root: Path) -> Triplets:
    """The train split: each pair with its `target_hard`. Raises DataError."""
    annotations = _annotations(root)
    path = annotations / "image_splits" / "split.rc2.train.json"
    files = read_files(path)
    captions = annotations / "captions" / "cap.rc2.train.json"
    entries = read_entries(captions, {"reference": str, "target_hard": str, "caption": str})
    triplets = [Triplet(entry["reference"], entry["target_hard"], (entry["caption"],)) for entry in entries]
    unknown = {name for one in triplets for name in (one.reference, one.target)} - files.keys()
    if unknown:
        raise DataError(f"{path}: does not know {min(unknown)!r}, which {captions.name} names; take the official files")
    return triplets, _places(root, files)


def _annotations(root: Path) -> Path:
    return root / "cirr" if (root / "cirr").is_dir() else root


def _places(root: Path, files: dict[str, str]) -> dict[str, Path]:
    return {name: root / PurePosixPath(file).with_suffix("") for name, file in files.items()}


def _query(entry: dict[str, Any], judged: bool) -> JudgedQuery:
    target = entry["target_hard"] if judged else ""
    # 1 and 0.5 mark images that annotators found acceptable as well, -1 those they did not.
    soft = {name for name, value in entry["target_soft"].items() if value > 0} if judged else set()
    return JudgedQuery(
        id=str(entry["pairid"]),
        reference=entry["reference"],
        caption=entry["caption"],
        targets=frozenset([target] if judged else ()),
        subset=tuple(entry["img_set"]["members"]),
        acceptable=frozenset(soft - {target, entry["reference"]}),
    )
