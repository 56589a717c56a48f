"""FashionIQ: three categories, each with its own gallery, under two protocols that must not be mixed up.

fashioniq-val/split      gallery = all names of split.CATEGORY.val.json (SPRC, CLIP4Cir)
fashioniq-val/val-union  gallery = the references and targets of the category's queries (VAL); higher numbers
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cir.data.annotations import Annotated, Places, TrainQueries, check_names, read_entries, read_names
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError

CATEGORIES = ("dress", "shirt", "toptee")


def read_fashioniq(root: Path, *, union: bool = False) -> Annotated:
    """FashionIQ val in its official layout: `captions/`, `image_splits/` and `images/`.

    Args:
        root: the data set's folder.
        union: the protocol val-union instead of split.

    Raises:
        DataError: an annotation file is missing or malformed.
    """
    queries: list[JudgedQuery] = []
    galleries = {}
    for category in CATEGORIES:
        _, entries = _entries(root, category, "val")
        of_category = [_query(category, number, entry) for number, entry in enumerate(entries)]
        if union:
            galleries[category] = frozenset(_names(of_category))
        else:
            galleries[category] = frozenset(read_names(root / "image_splits" / f"split.{category}.val.json"))
        queries += of_category
    return Annotated(tuple(queries), galleries, _places(root, {*_names(queries), *set().union(*galleries.values())}))


def read_fashioniq_train(root: Path) -> TrainQueries:
    """The train splits of the three categories, pooled as the official trainer does. Raises DataError."""
    queries = []
    for category in CATEGORIES:
        path, entries = _entries(root, category, "train")
        for number, entry in enumerate(entries):
            captions = entry["captions"]
            if not captions or not all(isinstance(caption, str) for caption in captions):
                raise DataError(f"{path}: the captions of entry {number} are no texts; get the official file again")
            queries.append(_query(category, number, entry))
    return queries, _places(root, _names(queries))


def join_captions(captions: Sequence[str]) -> str:
    """The two captions of a pair as official validation joins them: "c1 and c2", each without . ? , at its ends.

    The official code also capitalises the first, which its caption processor undoes; an empty caption stays in.
    """
    return " and ".join(str(caption).strip(".?, ") for caption in captions)


def _entries(root: Path, category: str, split: str) -> tuple[Path, list[dict[str, Any]]]:
    path = root / "captions" / f"cap.{category}.{split}.json"
    entries = read_entries(path, {"candidate": str, "target": str, "captions": list})
    check_names([entry[key] for entry in entries for key in ("candidate", "target")], path)
    return path, entries


def _query(category: str, number: int, entry: dict[str, Any]) -> JudgedQuery:
    return JudgedQuery(
        id=f"{category}-{number}",
        reference=entry["candidate"],
        caption=join_captions(entry["captions"]),
        targets=frozenset([entry["target"]]),
        captions=tuple(entry["captions"]),
        groups=(category,),
        gallery=category,
    )


def _names(queries: Iterable[JudgedQuery]) -> set[str]:
    return {name for query in queries for name in (query.reference, *query.targets)}


def _places(root: Path, names: Iterable[str]) -> Places:
    return {name: root / "images" / name for name in names}
