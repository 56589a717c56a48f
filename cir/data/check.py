"""What a data set's files should be, and what of them is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cir.errors import DataError
from cir.data.annotations import find_pictures
from cir.data.benchmark import ids_sha256
from cir.data.protocols import READERS, TRAIN_READERS

OK, MISSING, OTHER = "ok", "missing", "not the official file"
UNKNOWN = "there; its digest is not known"


@dataclass(frozen=True)
class DataCheck:
    """What of a benchmark's data is there.

    Attributes:
        manifest: what should be.
        files: annotation file -> "ok", "missing", "not the official file" or that its digest is not known.
        missing: places of pictures that are not there, without suffix.
        images: how many pictures there should be.
        ids: whether the ids are those of the manifest; None where they cannot be compared.
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


def read_manifest(name: str) -> dict[str, Any]:
    """The manifest of the split that a benchmark is on: `data_manifests/SPLIT.json`."""
    folder = resources.files("cir.data_manifests")
    text = (folder / f"{name.removesuffix('-union')}.json").read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def check_data(name: str, root: Path) -> DataCheck:
    """Compare a folder with the manifest of an official benchmark or train split. Pictures are not opened.

    Raises:
        DataError: there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data-root is the data set's own folder")
    manifest = read_manifest(name)
    should = manifest["benchmarks"][name]
    files = {file: _state(root, file, entry) for file, entry in manifest["files"].items()}
    try:
        if name in TRAIN_READERS:
            places: Mapping[str, Path] = TRAIN_READERS[name](root)[1]
            digest: str | None = ids_sha256(places)
        else:
            annotated = READERS[name](root, True)
            places, digest = annotated.places, annotated.benchmark.gallery_sha256
    except DataError as error:
        return DataCheck(manifest, files, (), should["images"], None, str(error))
    found = {image.id for image in find_pictures(places)}
    missing = tuple(str(places[image]) for image in sorted(places.keys() - found))
    same = digest == should["sha256"] if should["sha256"] else len(places) == should["images"]
    return DataCheck(manifest, files, missing, should["images"], same)


def _state(root: Path, file: str, entry: Mapping[str, Any]) -> str:
    path = next((path for path in (root / file, root / "cirr" / file) if path.is_file()), None)
    if path is None:
        return MISSING
    if entry["sha256"] is None:
        return UNKNOWN
    data = path.read_bytes()
    same = len(data) == entry["bytes"] and hashlib.sha256(data).hexdigest() == entry["sha256"]
    return OK if same else OTHER
