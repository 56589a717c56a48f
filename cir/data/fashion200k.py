"""Fashion200K: product photos with descriptions; a query changes one word of a description.

Han et al., ICCV 2017; the queries, and what counts as a hit, are those of TIRG (Vo et al., CVPR 2019): a photo answers
a query if its description equals that of the query's target.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cir.data.annotations import Annotated, check_names
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.files import read_lines

GARMENTS = ("dress", "jacket", "pants", "skirt", "top")
LABELS = tuple(f"labels/{garment}_test_detect_all.txt" for garment in GARMENTS)
QUERIES = "test_queries.txt"


def read_fashion200k(root: Path) -> Annotated:
    """The test split: `labels/`, TIRG's `test_queries.txt`, and photos under `women/`; ids are the paths in the files.

    Raises:
        DataError: an annotation file is missing or malformed.
    """
    described = {}  # photo -> its description; of several the last, as in TIRG's code
    showing = defaultdict(set)  # description -> photos
    for name in LABELS:
        for where, line in read_lines(root / name):
            photo, _, description = _columns(line, where)
            described[photo] = description
            showing[description].add(photo)
        check_names(described, root / name)
    targets = {description: frozenset(photos) for description, photos in showing.items()}
    queries = []
    for number, (where, line) in enumerate(read_lines(root / QUERIES)):
        photos = line.split()
        if len(photos) != 2:
            raise DataError(f"{where}: {len(photos)} paths instead of 2; get the official file again")
        for photo in photos:
            if photo not in described:
                raise DataError(f"{where}: {photo!r} is in no label file of the test split; get the official files")
        reference, target = (described[photo] for photo in photos)
        caption = change(reference, target)
        queries.append(
            JudgedQuery(f"fashion200k-{number}", photos[0], caption, targets=targets[target], captions=(caption,))
        )
    if not queries:
        raise DataError(f"{root / QUERIES}: no queries; get the official file again")
    places = {photo: root / PurePosixPath(photo).with_suffix("") for photo in described}
    return Annotated(tuple(queries), {"": frozenset(described)}, places)


def change(reference: str, target: str) -> str:
    """ "replace X with Y": the first word of each description that the other lacks; the last one if it lacks none."""
    one, other = reference.split(), target.split()
    return f"replace {_differing(one, other)} with {_differing(other, one)}"


def _differing(words: Sequence[str], others: Sequence[str]) -> str:
    return next((word for word in words if word not in others), words[-1] if words else "")


def _columns(line: str, where: str) -> list[str]:
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) != 3 or not columns[0] or not columns[2]:
        raise DataError(f"{where}: not path, score and description, separated by tabs; get the official file again")
    return columns
