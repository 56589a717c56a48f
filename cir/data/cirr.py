"""CIRR: one gallery per split, the reference removed; each query also ranks the six images of its `img_set`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from cir.data.annotations import Annotated, Kind, Places, TrainQueries, read_entries, read_files
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError


def read_cirr(root: Path, split: str) -> Annotated:
    """CIRR in its official layout: `cirr/captions` and `cirr/image_splits`, or the two directly; `dev/`, `test1/`.

    Args:
        root: the data set's folder.
        split: "val", or "test1", whose targets are not public.

    Raises:
        DataError: an annotation file is missing or malformed.
    """
    annotations = _annotations(root)
    judged = split != "test1"
    files = read_files(annotations / "image_splits" / f"split.rc2.{split}.json")
    path = annotations / "captions" / f"cap.rc2.{split}.json"
    keys: dict[str, Kind] = {"pairid": int, "reference": str, "caption": str, "img_set.members": list[str]}
    entries = read_entries(path, keys | ({"target_hard": str, "target_soft": dict[str, float]} if judged else {}))
    queries = tuple(_query(entry, judged) for entry in entries)
    return Annotated(queries, {"": frozenset(files)}, _places(root, files))


def read_cirr_train(root: Path) -> TrainQueries:
    """The train split: each pair with its `target_hard`. Raises DataError."""
    annotations = _annotations(root)
    path = annotations / "image_splits" / "split.rc2.train.json"
    files = read_files(path)
    captions = annotations / "captions" / "cap.rc2.train.json"
    entries = read_entries(captions, {"pairid": int, "reference": str, "target_hard": str, "caption": str})
    queries = [
        JudgedQuery(
            id=str(entry["pairid"]),
            reference=entry["reference"],
            caption=entry["caption"],
            targets=frozenset([entry["target_hard"]]),
            captions=(entry["caption"],),
        )
        for entry in entries
    ]
    unknown = {name for query in queries for name in (query.reference, *query.targets)} - files.keys()
    if unknown:
        raise DataError(f"{path}: no entry for {min(unknown)!r}, which {captions.name} names; get the official files")
    return queries, _places(root, files)


def _annotations(root: Path) -> Path:
    return root / "cirr" if (root / "cirr").is_dir() else root


def _places(root: Path, files: dict[str, str]) -> Places:
    return {name: root / PurePosixPath(file).with_suffix("") for name, file in files.items()}


def _query(entry: dict[str, Any], judged: bool) -> JudgedQuery:
    target = entry["target_hard"] if judged else ""
    # 1 and 0.5 mark images that annotators accepted as well, -1 those they rejected.
    soft = {name for name, value in entry["target_soft"].items() if value > 0} if judged else set()
    return JudgedQuery(
        id=str(entry["pairid"]),
        reference=entry["reference"],
        caption=entry["caption"],
        targets=frozenset([target] if judged else ()),
        captions=(entry["caption"],),
        subset=tuple(entry["img_set"]["members"]),
        acceptable=frozenset(soft - {target, entry["reference"]}),
    )
