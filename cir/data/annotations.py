"""Official annotation files: read strictly, and joined with the pictures they name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cir.errors import DataError
from cir.data.benchmark import Benchmark
from cir.images import ImageFile

# The official FashionIQ and CIRR loaders open .png; FashionIQ's own pictures and COCO's are .jpg.
SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Annotated:
    """What annotation files say.

    Attributes:
        benchmark: without pictures; enough to score a run.
        places: id -> where its picture belongs, without suffix; all of the gallery and all references.
    """

    benchmark: Benchmark
    places: Mapping[str, Path]

    def with_pictures(self) -> Benchmark:
        """The benchmark with the pictures that are there; those that are not are its `absent`."""
        found = list(find_pictures(self.places))
        benchmark = replace(self.benchmark, images=found)
        return benchmark.without(self.places.keys() - {image.id for image in found})


@dataclass(frozen=True)
class Triplet:
    """What a model learns from: a reference, what annotators said, and a target; both are image ids."""

    reference: str
    target: str
    captions: tuple[str, ...]


# The triplets of a train split, and where their pictures belong, by id, without suffix.
Triplets = tuple[list[Triplet], dict[str, Path]]


def find_pictures(places: Mapping[str, Path]) -> Iterable[ImageFile]:
    """The pictures that are there, in the order of their ids; each folder is listed once."""
    listed: dict[Path, frozenset[str]] = {}
    for image_id, place in sorted(places.items()):
        folder = place.parent
        if folder not in listed:
            listed[folder] = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        for suffix in SUFFIXES:
            if place.name + suffix in listed[folder]:
                path = str(folder.absolute() / (place.name + suffix))
                yield ImageFile(image_id, path, path)
                break


def read_json(path: Path, kind: type, what: str) -> Any:
    """The content of an annotation file.

    Raises:
        DataError: it is not there, not JSON, or not a `kind`.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); --data-root is the data set's own folder,"
            " and 'cir data check' says what belongs there"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; take the official file again") from None
    if not isinstance(content, kind):
        raise DataError(f"{path}: not {what}; take the official file again")
    return content


def read_files(path: Path) -> dict[str, str]:
    """A table of image names and files. Raises DataError for anything else."""
    files: dict[str, str] = read_json(path, dict, "a table of image names and files")
    if not files or not all(isinstance(file, str) for file in files.values()):
        raise DataError(f"{path}: not a table of image names and files; take the official file again")
    return files


def read_names(path: Path) -> list[str]:
    """A list of image names. Raises DataError for anything else."""
    names: list[str] = read_json(path, list, "a list of image names")
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: not a list of image names; take the official file again")
    return names


def read_entries(path: Path, keys: Mapping[str, type], *, within: str = "") -> list[dict[str, Any]]:
    """A list of objects, each of which has the keys, with values of those types.

    Args:
        path: the file.
        keys: key -> type of its values.
        within: the key of the list, where the file is an object.

    Raises:
        DataError: it is something else; the message names file, entry and key.
    """
    content = read_json(path, dict if within else list, "what it should be")
    entries = content.get(within) if within else content
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: it lists nothing; take the official file again")
    for number, entry in enumerate(entries):
        for key, kind in keys.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise DataError(
                    f"{path}: entry {number} has no {key!r} of type {kind.__name__}; take the official file again"
                )
    return entries
