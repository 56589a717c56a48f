"""Official annotation files: read strictly, and joined with the pictures they name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from types import GenericAlias
from typing import Any, get_args, get_origin

from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.files import parse_json, read_regular
from cir.images import ImageFile
from cir.images.crops import Box, with_box
from cir.images.names import canonical_id

# The official FashionIQ and CIRR loaders open .png; FashionIQ's own pictures and COCO's are .jpg. In any letter case.
SUFFIXES = (".png", ".jpg", ".jpeg")

LARGEST = 2_000_000_000  # bytes of an annotation file; COCO's are the largest

Places = Mapping[str, Path]  # image id -> where its picture belongs, without suffix
NO_BOXES: Mapping[str, Box] = {}


@dataclass(frozen=True)
class Annotated:
    """The content of a split's annotation files.

    Attributes:
        queries: without targets if these are not public.
        galleries: name -> image ids; a data set with a single gallery has it under "".
        places: of all gallery images and all references.
        unlisted: size of the gallery if its ids are unknown (CIRCO without COCO's list); else 0.
        boxes: image id -> the part of the picture at its place that is meant; all of it where there is none.
    """

    queries: tuple[JudgedQuery, ...]
    galleries: Mapping[str, AbstractSet[str]]
    places: Places
    unlisted: int = 0
    boxes: Mapping[str, Box] = field(default_factory=dict)


# The judged queries of a train split, each with one target, and the places of its pictures.
TrainQueries = tuple[list[JudgedQuery], Places]


def find_pictures(places: Places, boxes: Mapping[str, Box] = NO_BOXES) -> Iterable[ImageFile]:
    """The pictures that exist, in the order of their ids. Each folder is listed once.

    Args:
        places: where they belong.
        boxes: image id -> the part that is meant, where that is not the whole picture.
    """
    listed: dict[Path, dict[str, str]] = {}  # folder -> name with a lower-case suffix -> name
    for image_id, place in sorted(places.items()):
        folder = place.parent
        if folder not in listed:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            listed[folder] = {stem + suffix.lower(): stem + suffix for stem, suffix in map(os.path.splitext, names)}
        for suffix in SUFFIXES:
            if name := listed[folder].get(place.name + suffix):
                path = os.path.join(os.path.realpath(folder), name)
                box = boxes.get(image_id)
                yield ImageFile(image_id, path if box is None else with_box(path, box), path, box=box)
                break


def place_in(folders: Iterable[Path], names: Iterable[str], otherwise: Path) -> Places:
    """Where pictures belong that may be in several folders.

    Args:
        folders: looked through in this order; those that do not exist are passed over. Each is listed once.
        names: names of pictures, without suffix.
        otherwise: the folder of those that are in none.
    """
    holding: dict[str, Path] = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                holding.setdefault(stem, folder)
    return {name: holding.get(name, otherwise) / name for name in names}


def file_of(root: Path, *folders: str, name: str) -> Path:
    """An annotation file in the data set's folder or in one of some folders of it; in the former if in none."""
    places = [root / folder / name for folder in folders]
    return next((place for place in places if place.is_file()), root / name)


def read_json(path: Path, kind: type, what: str) -> Any:
    """The content of an annotation file.

    Args:
        path: the file.
        kind: the expected type of the content.
        what: a name for that content, for messages.

    Raises:
        DataError: the file cannot be read, is not JSON, or is not a `kind`.
    """
    try:
        content = parse_json(read_regular(path, LARGEST))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); --data-root is the data set's own folder,"
            " and 'cir data check' says what belongs there"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; get the official file again") from None
    if not isinstance(content, kind):
        raise DataError(f"{path}: not {what}; get the official file again")
    return content


def read_files(path: Path) -> dict[str, str]:
    """A table of image names and files. Raises DataError for anything else."""
    files: dict[str, str] = read_json(path, dict, "a table of image names and files")
    if not files or not all(isinstance(file, str) for file in files.values()):
        raise DataError(f"{path}: not a table of image names and files; get the official file again")
    check_names(files.values(), path)
    return files


def check_names(names: Iterable[str], path: Path) -> None:
    """Raise DataError for a picture that would be read outside of the data set's folder."""
    for name in names:
        try:
            canonical_id(name)
        except ValueError as error:
            raise DataError(f"{path}: the picture {name!r} is {error}; get the official file again") from None


def read_names(path: Path) -> list[str]:
    """A list of image names. Raises DataError for anything else."""
    names: list[str] = read_json(path, list, "a list of image names")
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: not a list of image names; get the official file again")
    check_names(names, path)
    return names


Kind = type | GenericAlias  # a type, or list[T] or dict[str, T]


def read_entries(path: Path, keys: Mapping[str, Kind], *, within: str = "") -> list[dict[str, Any]]:
    """A list of objects that all have some keys, with values of given types.

    Args:
        path: the file.
        keys: key -> type of its values; "outer.inner" is a key of an object within an entry.
        within: the key of the list, if the file is an object.

    Raises:
        DataError: the content is something else; the message names file, entry and key.
    """
    content = read_json(path, dict if within else list, "an object" if within else "a list")
    entries = content.get(within) if within else content
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: no entries; get the official file again")
    for number, entry in enumerate(entries):
        for key, kind in keys.items():
            value = entry
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if not _is(value, kind):
                name = str(kind) if isinstance(kind, GenericAlias) else kind.__name__
                place = " in its ".join(map(repr, reversed(key.split("."))))
                raise DataError(f"{path}: entry {number} has no {place} of type {name}; get the official file again")
    return entries


def _is(value: object, kind: Kind) -> bool:
    if isinstance(kind, GenericAlias):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return _is(value, get_origin(kind)) and all(_is(item, get_args(kind)[-1]) for item in inner)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
