"""Shoes: photos of Attribute Discovery with relative captions; one gallery of all evaluation photos.

Guo et al., NeurIPS 2018; evaluated on single captions since VAL (Chen et al., CVPR 2020).
"""

from __future__ import annotations

from pathlib import Path

from cir.data.annotations import Annotated, check_names, place_in, read_entries
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.files import read_lines

_CAPTIONS = "relative_captions_shoes.json"


def read_shoes(root: Path) -> Annotated:
    """The evaluation part: entries whose two photos `eval_im_names.txt` lists; ids are the names in these files.

    Photos lie in `attributedata/womens_*/N/`, in `womens_*/N/`, or in one folder `images/`.

    Raises:
        DataError: an annotation file is missing or malformed.
    """
    path = root / _CAPTIONS
    entries = read_entries(path, {"ImageName": str, "ReferenceImageName": str, "RelativeCaption": str})
    names = {split: _read_names(root / f"{split}_im_names.txt") for split in ("eval", "train")}
    known = names["eval"] | names["train"]
    queries = []
    for number, entry in enumerate(entries):
        pair = entry["ReferenceImageName"], entry["ImageName"]
        unknown = set(pair) - known
        if unknown:
            raise DataError(
                f"{path}: entry {number} names {min(unknown)!r}, which is in neither eval_im_names.txt nor"
                " train_im_names.txt; get the official files again"
            )
        if names["eval"].issuperset(pair):
            caption = entry["RelativeCaption"]
            queries.append(
                JudgedQuery(f"shoes-{number}", pair[0], caption, targets=frozenset([pair[1]]), captions=(caption,))
            )
    folders = [folder for base in ("attributedata", ".") for folder in sorted((root / base).glob("womens_*/*"))]
    stems = {name: name.rpartition(".")[0] for name in names["eval"]}
    found = place_in([root / "images", *folders], stems.values(), root / "images")
    return Annotated(tuple(queries), {"": names["eval"]}, {name: found[stem] for name, stem in stems.items()})


def _read_names(path: Path) -> frozenset[str]:
    names = frozenset(line.strip() for _, line in read_lines(path))
    check_names(names, path)
    odd = next((name for name in sorted(names) if "/" in name or not name.rpartition(".")[0]), None)
    if not names or odd is not None:
        what = "lists no photos" if odd is None else f"{odd!r} is not the name of a photo"
        raise DataError(f"{path}: {what}; get the official file again")
    return names
