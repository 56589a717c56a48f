"""FashionIQ val: three categories, each with its own gallery, under two protocols that must not be mixed up.

fashioniq-val/split      gallery = all names of split.CATEGORY.val.json (SPRC, CLIP4Cir)
fashioniq-val/val-union  gallery = the references and targets of the category's queries (VAL); higher numbers
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cir.errors import DataError
from cir.data.annotations import Annotated, Triplet, Triplets, read_entries, read_names
from cir.data.benchmark import Benchmark, JudgedQuery
from cir.stats import parse_measure

CATEGORIES = ("dress", "shirt", "toptee")
MEASURES = (parse_measure("R@10"), parse_measure("R@50"))


def read_fashioniq(root: Path, *, union: bool = False) -> Annotated:
    """FashionIQ val in its official layout: `captions/`, `image_splits/` and `images/`.

    The reference stays in the ranking, as in the official code.

    Args:
        root: the data set's folder.
        union: the protocol val-union instead of split.

    Raises:
        DataError: an annotation file is missing or not what it should be.
    """
    queries: list[JudgedQuery] = []
    galleries = {}
    for category in CATEGORIES:
        path = root / "captions" / f"cap.{category}.val.json"
        entries = read_entries(path, {"candidate": str, "target": str, "captions": list})
        for number, entry in enumerate(entries):
            queries.append(
                JudgedQuery(
                    id=f"{category}-{number}",
                    reference=entry["candidate"],
                    caption=join_captions(entry["captions"]),
                    targets=frozenset([entry["target"]]),
                    groups=(category,),
                    gallery=category,
                )
            )
        named = {entry[key] for entry in entries for key in ("candidate", "target")}
        split = root / "image_splits" / f"split.{category}.val.json"
        galleries[category] = frozenset(named if union else read_names(split))
    benchmark = Benchmark(
        name="fashioniq-val-union" if union else "fashioniq-val",
        protocol=f"fashioniq-val/{'val-union' if union else 'split'}",
        images=(),
        queries=tuple(queries),
        measures=MEASURES,
        keep_reference=True,
        galleries=galleries,
        headline=MEASURES,
    )
    names = {*benchmark.gallery, *(query.reference for query in queries)}
    return Annotated(benchmark, {name: root / "images" / name for name in names})


def read_fashioniq_train(root: Path) -> Triplets:
    """The train splits of the three categories, pooled as the official trainer does. Raises DataError."""
    triplets = []
    for category in CATEGORIES:
        path = root / "captions" / f"cap.{category}.train.json"
        for number, entry in enumerate(read_entries(path, {"candidate": str, "target": str, "captions": list})):
            captions = tuple(entry["captions"])
            if not captions or not all(isinstance(caption, str) for caption in captions):
                raise DataError(f"{path}: the captions of entry {number} are no texts; take the official file again")
            triplets.append(Triplet(entry["candidate"], entry["target"], captions))
    names = {name for one in triplets for name in (one.reference, one.target)}
    return triplets, {name: root / "images" / name for name in names}


def join_captions(captions: Sequence[str]) -> str:
    """The two captions of a triplet as official validation joins them: "c1 and c2", each without . ? , at its ends.

    The official code also capitalises the first, which its caption processor undoes; an empty caption stays in.
    """
    return " and ".join(str(caption).strip(".?, ") for caption in captions)
