"""Mappings on disk: `mappings/NAME.json` with the evidence, `NAME.safetensors` with its arrays.

A mapping is written once. Stored vectors that a mapping has mapped are derived, as an approximate index is: if lost or
stale they are computed again from the originals, which are never changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cir.arrays import Floats, Stored
from cir.errors import CorruptIndexError, DataError
from cir.evidence import Evidence
from cir.files import parse_json, sha256_bytes, write_atomically, write_bytes
from cir.indexer.storage.derived import problem_of, write_record
from cir.indexer.storage.folder import IndexFolder, read_file, way_out
from cir.indexer.storage.manifest import FileEntry, MappingEntry
from cir.mappings import Route, SpaceMapping

_JSON, _ARRAYS = ".json", ".safetensors"
MAPPED = "mapped.npy"
_STEP_ROWS = 65_536

log = logging.getLogger(__name__)


def write_mapping(folder: IndexFolder, mapping: SpaceMapping) -> MappingEntry:
    """Write a mapping that no manifest names yet. Raises DataError when the disk refuses."""
    contents = _contents(mapping)
    name = _name(mapping, contents)
    for suffix, data in contents.items():
        write_bytes(folder.mappings / (name + suffix), data)
    return MappingEntry(
        name, {name + suffix: FileEntry(len(data), sha256_bytes(data)) for suffix, data in contents.items()}
    )


def read_mapping(folder: IndexFolder, entry: MappingEntry) -> SpaceMapping:
    """A mapping that a manifest names. Raises CorruptIndexError when its files contradict the manifest."""
    contents: dict[str, bytes] = {}
    for name, file in entry.files.items():
        path = folder.mappings / name
        data = read_file(folder, path)
        if sha256_bytes(data) != file.sha256:
            raise CorruptIndexError(f"{path} contradicts its digest; {way_out(folder)}")
        contents[Path(name).suffix] = data
    try:
        arrays: Mapping[str, Floats] = load(contents[_ARRAYS]) if _ARRAYS in contents else {}
        values = parse_json(contents[_JSON])
        evidence = Evidence.from_json(values["evidence"]) if values["evidence"] else None
        parsed = {"route": Route(values["route"]), "evidence": evidence, **arrays}
        return SpaceMapping(**{**values, **parsed})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SafetensorError) as error:
        path = folder.mappings / entry.name
        raise CorruptIndexError(f"{path}: not a mapping of this version: {error}; update cir") from None


def mapped_folder(segment: Path, mapping: SpaceMapping) -> Path:
    """Where the mapped vectors of a segment and what derives from them are, beside the segment's own files."""
    return segment / f"{mapping.model}--{mapping.space}"


def mapped_vectors(path: Path, gallery_sha256: str, vectors: Stored, mapping: SpaceMapping) -> tuple[Stored, str]:
    """The vectors of a segment, mapped into the serving model's space, and a digest that names them.

    Args:
        path: folder in which they are cached; made if missing.
        gallery_sha256: digest of the segment file that holds the originals.
        vectors: (N, D_from).
        mapping: one that maps the gallery.

    Returns:
        (N, D_to) float16, unit-norm, memory-mapped if the cache can be written.
    """
    origin = _origin(gallery_sha256, _name(mapping, _contents(mapping)))
    digest = sha256_bytes(origin.encode())
    cache = path / MAPPED
    try:
        if problem_of(cache, [origin]) is None:
            return np.load(cache, mmap_mode="r"), digest
    except (OSError, ValueError):
        pass  # computed again
    mapped = np.empty((len(vectors), 0 if mapping.matrix is None else len(mapping.matrix)), np.float16)
    for start in range(0, len(vectors), _STEP_ROWS):
        mapped[start : start + _STEP_ROWS] = mapping.map(vectors[start : start + _STEP_ROWS])
    try:
        with write_atomically(cache, need=mapped.nbytes) as temporary, temporary.open("wb") as file:
            np.save(file, mapped)
        write_record(cache, origin)
        return np.load(cache, mmap_mode="r"), digest
    except (DataError, OSError) as error:  # a reader may have no right to write; a writer may tidy up
        log.warning("the mapped vectors of %s could not be cached: %s", path, error)
        return mapped, digest


def origins_of(gallery_sha256: str, mappings: Collection[str]) -> dict[str, str]:
    """What mapped vectors of a segment may have been made from -> the digest that names them.

    Args:
        gallery_sha256: digest of the segment file.
        mappings: names of mappings.
    """
    origins = [_origin(gallery_sha256, name) for name in mappings]
    return {origin: sha256_bytes(origin.encode()) for origin in origins}


def _origin(gallery_sha256: str, mapping: str) -> str:
    return f"{gallery_sha256} {mapping}"


def _contents(mapping: SpaceMapping) -> dict[str, bytes]:
    """Suffix -> bytes of the files of a mapping."""
    values = {
        "model": mapping.model,
        "space": mapping.space,
        "route": mapping.route.value,
        "slope": mapping.slope,
        "intercept": mapping.intercept,
        "evidence": mapping.evidence.to_json() if mapping.evidence else None,
    }
    contents = {_JSON: json.dumps(values, indent=1, sort_keys=True).encode()}
    if mapping.arrays:
        contents[_ARRAYS] = save(
            {key: np.ascontiguousarray(value, np.float32) for key, value in mapping.arrays.items()}
        )
    return contents


def _name(mapping: SpaceMapping, contents: Mapping[str, bytes]) -> str:
    """A name that holds the digest of the contents, so that no two mappings share one."""
    return f"{mapping.model}--{mapping.space}-{sha256_bytes(b''.join(contents.values()))[:8]}"
