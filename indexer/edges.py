"""Edges on disk, and stored vectors carried along one: `edges/NAME.json` with the evidence, `NAME.safetensors`.

An edge file is written once. Carried vectors are derived, as an approximate index is: lost or stale, they are made
again from the originals, which are never touched.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cir.errors import CorruptIndexError, DataError
from cir.indexer.durable import make_folder, replacing, sha256_bytes, sha256_file, write_bytes
from cir.indexer.manifest import EDGES, EdgeEntry, FileEntry
from cir.indexer.store import Stored
from cir.types import Edge

_WHAT, _WEIGHTS = ".json", ".safetensors"
_CARRIED = "carried.npy"
_ORIGIN = "carried.json"
_STEP_ROWS = 65_536

log = logging.getLogger(__name__)


def write_edge(index: Path, edge: Edge) -> EdgeEntry:
    """Write an edge; nothing refers to it yet. Raises DataError when the disk refuses."""
    folder = index / EDGES
    make_folder(folder)
    told = {key: value for key, value in vars(edge).items() if key not in ("matrix", "bias")}
    contents = {_WHAT: json.dumps({**told, "evidence": dict(edge.evidence)}, indent=1, sort_keys=True).encode()}
    arrays = {key: value for key in ("matrix", "bias") if (value := getattr(edge, key)) is not None}
    if arrays:
        contents[_WEIGHTS] = save({key: np.ascontiguousarray(value, np.float32) for key, value in arrays.items()})
    digest = sha256_bytes(b"".join(contents.values()))[:8]
    name = f"{edge.model}--{edge.space}-{digest}"
    for suffix, data in contents.items():
        write_bytes(folder / (name + suffix), data)
    return EdgeEntry(
        name, {name + suffix: FileEntry(len(data), sha256_bytes(data)) for suffix, data in contents.items()}
    )


def read_edge(index: Path, entry: EdgeEntry) -> Edge:
    """An edge that a manifest names. Raises CorruptIndexError when its files are not those."""
    contents: dict[str, bytes] = {}
    for name, file in entry.files.items():
        path = index / EDGES / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptIndexError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from None
        if sha256_bytes(data) != file.sha256:
            raise CorruptIndexError(f"{path} contradicts its digest; restore it from a copy")
        contents[Path(name).suffix] = data
    try:
        arrays: Mapping[str, np.ndarray] = load(contents[_WEIGHTS]) if _WEIGHTS in contents else {}
        return Edge(**json.loads(contents[_WHAT]), matrix=arrays.get("matrix"), bias=arrays.get("bias"))
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        path = index / EDGES / entry.name
        raise CorruptIndexError(f"{path}: not an edge of this version: {error}; update cir") from None


def carried(folder: Path, gallery_sha256: str, edge_name: str, vectors: Stored, edge: Edge) -> tuple[Stored, str]:
    """The vectors of a segment in the space an edge leads to, and a digest that names them.

    Args:
        folder: where they are kept; made if it is not there.
        gallery_sha256, edge_name: what they derive from; the name of an edge holds its digest.
        vectors: (N, D_from).
        edge: of the route "transform".

    Returns:
        (N, D_to) float16, unit-norm, mapped where they could be kept.
    """
    origin = {"gallery": gallery_sha256, "edge": edge_name}
    digest = sha256_bytes(json.dumps(origin, sort_keys=True).encode())
    path = folder / _CARRIED
    try:
        if json.loads((folder / _ORIGIN).read_bytes()) == {**origin, "sha256": sha256_file(path)}:
            return np.load(path, mmap_mode="r"), digest
    except (OSError, ValueError):
        pass  # made again
    made = np.empty((len(vectors), len(edge.matrix if edge.matrix is not None else ())), np.float16)
    for start in range(0, len(vectors), _STEP_ROWS):
        made[start : start + _STEP_ROWS] = edge.carry(vectors[start : start + _STEP_ROWS])
    try:
        make_folder(folder)
        with replacing(path, need=made.nbytes) as temporary, temporary.open("wb") as file:
            np.save(file, made)
        write_bytes(folder / _ORIGIN, json.dumps({**origin, "sha256": sha256_file(path)}).encode())
        return np.load(path, mmap_mode="r"), digest
    except DataError as error:  # a reader may have no right to write
        log.warning("the carried vectors of %s could not be kept: %s", folder, error)
        return made, digest
