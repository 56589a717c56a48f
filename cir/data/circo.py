"""CIRCO: several targets per query among the 123,403 unlabeled images of COCO 2017."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from cir.data.annotations import Annotated, Kind, read_entries
from cir.data.judged_query import JudgedQuery

IMAGES = 123_403
COCO = PurePosixPath("COCO2017_unlabeled")
COCO_LIST = COCO / "annotations" / "image_info_unlabeled2017.json"


def read_circo(root: Path, split: str, *, pictures: bool) -> Annotated:
    """CIRCO in its official layout: `annotations/` beside `COCO2017_unlabeled/`. Groups are the semantic aspects.

    Args:
        root: the data set's folder.
        split: "val", or "test", whose targets are not public.
        pictures: COCO's list of images is needed; without it a run can be scored, but its ids cannot be checked.

    Raises:
        DataError: an annotation file is missing or malformed.
    """
    judged = split != "test"
    path = root / "annotations" / f"{split}.json"
    keys: dict[str, Kind] = {"id": int, "reference_img_id": int, "relative_caption": str}
    targets: dict[str, Kind] = {"target_img_id": int, "gt_img_ids": list[int], "semantic_aspects": list[str]}
    entries = read_entries(path, keys | (targets if judged else {}))
    files = _coco_files(root / COCO_LIST) if pictures or (root / COCO_LIST).is_file() else {}
    folder = root / COCO / "unlabeled2017"
    return Annotated(
        queries=tuple(_query(entry, judged) for entry in entries),
        galleries={"": frozenset(files)},
        places={name: folder / PurePosixPath(file).stem for name, file in files.items()},
        unlisted=0 if files else IMAGES,
    )


def _coco_files(path: Path) -> dict[str, str]:
    """Image id -> file name."""
    entries = read_entries(path, {"id": int, "file_name": str}, within="images")
    return {str(entry["id"]): entry["file_name"] for entry in entries}


def _query(entry: dict[str, Any], judged: bool) -> JudgedQuery:
    return JudgedQuery(
        id=str(entry["id"]),
        reference=str(entry["reference_img_id"]),
        caption=entry["relative_caption"],
        targets=frozenset(map(str, entry["gt_img_ids"] if judged else ())),
        captions=(entry["relative_caption"],),
        groups=tuple(entry["semantic_aspects"] if judged else ()),
        first_target=str(entry["target_img_id"]) if judged else "",
    )
