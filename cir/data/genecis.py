"""GeneCIS: four tasks, focus or change of an attribute or an object; each query ranks a gallery of its own.

A caption is one word or phrase, which says what is to be equal (focus) or different (change). The object tasks are
about whole pictures of COCO val2017, the attribute tasks about crops of Visual Genome. Vaze et al., CVPR 2023.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cir.data.annotations import Annotated, Kind, Places, file_of, place_in, read_entries
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.images.crops import Box, plain

TASKS = ("focus-object", "change-object", "focus-attribute", "change-attribute")
DILATION = 0.7  # by which share of its size a box grows

_COCO = ("val2017", "coco2017/val2017", "COCO_val2017")
_GENOME = (
    *("VG_100K_all", "VG_All", "VG_100K", "VG_100K_2"),
    *(f"Visual_Genome/{name}" for name in ("VG_100K_all", "VG_All", "VG_100K", "VG_100K_2")),
)


class _Image(NamedTuple):
    """An image of an entry: its id, the name of its picture without suffix, and which part is meant."""

    id: str
    picture: str
    box: Box | None


def read_genecis(root: Path, tasks: Sequence[str] = TASKS) -> Annotated:
    """Some tasks of GeneCIS: `genecis/TASK.json`, or the files directly, beside `val2017/` and `VG_100K_all/`.

    Entries whose gallery is not as long as most of the task are left out, as in the official code.

    Args:
        root: the data set's folder.
        tasks: of `TASKS`.

    Raises:
        DataError: an annotation file is missing or malformed.
    """
    queries: list[JudgedQuery] = []
    galleries: dict[str, frozenset[str]] = {}
    places: dict[str, Path] = {}
    boxes: dict[str, Box] = {}
    for task in tasks:
        path = file_of(root, "genecis", name=f"{task.replace('-', '_')}.json")
        of_task, images = _read_task(path, task)
        queries += of_task if len(tasks) == 1 else [replace(query, groups=(task,)) for query in of_task]
        galleries[task] = frozenset().union(*(query.subset for query in of_task))
        places |= _places(root, images, "attribute" in task)
        boxes |= {image.id: image.box for image in images if image.box is not None}
    return Annotated(tuple(queries), galleries, places, boxes=boxes)


def dilated(box: Sequence[float]) -> Box:
    """The part of a picture that stands for an instance: its box grown as the official code grows it.

    Left and top move out by 0.7 of width and height, not past the edge. Right and bottom are 1.7 times width and height
    from there: towards them the box does not grow, and where it met the edge, even that is not made up for.

    Args:
        box: left, top, width and height.
    """
    left, top, width, height = box
    left, top = max(0, left - DILATION * width), max(0, top - DILATION * height)
    return Box(left, top, left + (1 + DILATION) * width, top + (1 + DILATION) * height)


def _read_task(path: Path, task: str) -> tuple[list[JudgedQuery], list[_Image]]:
    keys: dict[str, Kind] = {"condition": str, "gallery": list, "reference": dict, "target": dict}
    entries = read_entries(path, keys)
    (usual, _), *_ = Counter(len(entry["gallery"]) for entry in entries).most_common(1)
    queries, images = [], []
    for number, entry in enumerate(entries):
        if len(entry["gallery"]) != usual:
            continue
        read = _crop if "attribute" in task else _whole
        named = [entry["reference"], entry["target"], *entry["gallery"]]
        reference, target, *others = (read(values, f"{path}: entry {number}") for values in named)
        images += [reference, target, *others]
        queries.append(
            JudgedQuery(
                id=f"{task}-{number}",
                reference=reference.id,
                caption=entry["condition"],
                targets=frozenset([target.id]),
                captions=(entry["condition"],),
                subset=(target.id, *(image.id for image in others)),
                gallery=task,
            )
        )
    return queries, images


def _whole(values: object, where: str) -> _Image:
    number = values.get("val_image_id") if isinstance(values, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise DataError(f"{where} names an image without 'val_image_id' of type int; get the official file again")
    return _Image(str(number), f"{number:012d}", None)


def _crop(values: object, where: str) -> _Image:
    known: Mapping[str, Any] = values if isinstance(values, dict) else {}
    number, box = str(known.get("image_id")), known.get("instance_bbox")
    if not (number.isascii() and number.isdigit()):
        raise DataError(f"{where} names an image without a number as 'image_id'; get the official file again")
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
        raise DataError(f"{where} names an image without 'instance_bbox' of four numbers; get the official file again")
    return _Image(f"{number}@{','.join(map(plain, box))}", number, dilated(box))


def _places(root: Path, images: Iterable[_Image], genome: bool) -> Places:
    pictures = {image.id: image.picture for image in images}
    folders = [root / name for name in (_GENOME if genome else _COCO)]
    found = place_in(folders, set(pictures.values()), folders[0])
    return {image_id: found[picture] for image_id, picture in pictures.items()}
