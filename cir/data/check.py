"""Compare a data set's folder with its manifest: annotation files by digest, pictures by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cir.data.annotations import Places, file_of, find_pictures
from cir.data.benchmark import ids_sha256
from cir.data.protocols import PROTOCOLS, TRAIN_SPLITS
from cir.errors import DataError
from cir.files import sha256_file

FOLDERS = ("cirr", "genecis", "annotations")  # of the data set's folder that may hold the annotation files
OK, MISSING, OTHER = "ok", "missing", "not the official file"
UNKNOWN = "present; its official digest is not known"


@dataclass(frozen=True)
class DataCheck:
    """How far a folder holds a benchmark's data.

    Attributes:
        manifest: the data manifest that the folder was compared with.
        files: annotation file -> OK, MISSING, OTHER or UNKNOWN.
        missing: places of missing pictures, without suffix.
        images: number of pictures, by the manifest or the annotations, whichever names more: a manifest counts the
            gallery, outside of which references may be.
        ids: whether the gallery's ids are those of the manifest; None if it has none, or the annotations cannot be
            read.
        problem: why the annotations cannot be read; empty if they can.
    """

    manifest: Mapping[str, Any]
    files: Mapping[str, str]
    missing: tuple[str, ...]
    images: int
    ids: bool | None
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether figures on these files are figures of the official benchmark."""
        files = all(state in (OK, UNKNOWN) for state in self.files.values())
        return files and not self.missing and not self.problem and self.ids is not False


def read_data_manifest(split: str) -> dict[str, Any]:
    """The content of `data_manifests/SPLIT.json`."""
    text = (resources.files("cir.data_manifests") / f"{split}.json").read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def check_data(name: str, root: Path) -> DataCheck:
    """Compare a folder with the manifest of an official benchmark or train split. Pictures are not opened.

    Args:
        name: a key of `PROTOCOLS` or `TRAIN_SPLITS`.
        root: the data set's folder.

    Raises:
        DataError: the folder does not exist.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data-root is the data set's own folder")
    manifest = read_data_manifest(PROTOCOLS[name].split if name in PROTOCOLS else name)
    expected = manifest["benchmarks"][name]
    needed = expected.get("files", manifest["files"])
    files = {file: _state(root, file, manifest["files"][file]) for file in needed}
    try:
        places, digest = _places(name, root)
    except DataError as error:
        return DataCheck(manifest, files, (), expected["images"] or 0, None, str(error))
    present = {image.id for image in find_pictures(places)}
    missing = tuple(str(places[image]) for image in sorted(places.keys() - present))
    listed = expected["images"] or 0
    same = digest == expected["sha256"] if expected["sha256"] else len(places) == listed if listed else None
    return DataCheck(manifest, files, missing, max(listed, len(places)), same)


def _places(name: str, root: Path) -> tuple[Places, str | None]:
    """Where the pictures belong, and the digest of the gallery's ids."""
    if name in TRAIN_SPLITS:
        _, places = TRAIN_SPLITS[name].read(root)
        return places, ids_sha256(places)
    protocol = PROTOCOLS[name]
    annotated = protocol.read(root, True)
    return annotated.places, protocol.benchmark(annotated).gallery_sha256


def _state(root: Path, file: str, entry: Mapping[str, Any]) -> str:
    path = file_of(root, *FOLDERS, name=file)
    if not path.is_file():
        return MISSING
    if entry["sha256"] is None:
        return UNKNOWN
    same = path.stat().st_size == entry["bytes"] and sha256_file(path) == entry["sha256"]
    return OK if same else OTHER
