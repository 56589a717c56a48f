"""What an index must answer, computed with numpy from the pictures alone: no code of the indexer takes part."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cir.arrays import Floats
from cir.mappings import Maps
from cir.testing.fakes import SIDE, FakeEncoder
from tortures.steps import CAPTION, ENCODERS, ROUTES, TOP

NEAR = 2e-4  # what float16 and the order of a sum may move a score by


@dataclass(frozen=True)
class Row:
    """An image of a state: the seed of its pixels, the model that made its vectors, and its metadata.

    One that was imported has no picture.
    """

    seed: int
    model: str = "fake-1"
    metadata: tuple[tuple[str, str], ...] = ()
    imported: bool = False


@dataclass(frozen=True)
class State:
    """One generation of an index as a reader should see it.

    Attributes:
        rows: by id.
        serving: name of the serving model.
        route: of the mapping to the vectors of the old model; empty without one.
        questions: what the index stores of judged questions.
    """

    rows: Mapping[str, Row]
    serving: str = "fake-1"
    route: str = ""
    questions: tuple[tuple[Any, ...], ...] = field(default=())

    def made_by(self, model: str, ids: Sequence[str] | None = None) -> State:
        """The same images, all or some of them with vectors of another model."""
        chosen = self.rows.keys() if ids is None else set(ids)
        rows = {key: replace(row, model=model) if key in chosen else row for key, row in self.rows.items()}
        return replace(self, rows=rows)


def png(seed: int) -> bytes:
    """The file of a picture of random pixels; `write_png` writes it."""
    buffer = io.BytesIO()
    _picture(seed).save(buffer, format="PNG")
    return buffer.getvalue()


@cache
def digest(row: Row) -> str:
    """SHA-256 of a picture's file, or of the vector that was imported."""
    content = stored_vectors(row.seed, row.model).astype(np.float16).tobytes() if row.imported else png(row.seed)
    return hashlib.sha256(content).hexdigest()


def write_photos(folder: Path, rows: Mapping[str, Row]) -> Path:
    """Make a folder hold exactly the pictures of some rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in rows:
            path.unlink()
    for name, row in rows.items():
        (folder / name).write_bytes(png(row.seed))
    return folder


@cache
def score(seed: int, made_by: str, serving: str, route: str) -> float | None:
    """The score of one image for the caption that `steps.ask` asks; None if it is not searched."""
    stored = stored_vectors(seed, made_by)
    query = ENCODERS[serving].encode_texts([CAPTION])
    slope, intercept = 1.0, 0.0
    if made_by != serving:
        if not route:
            return None
        mapping = ROUTES[route]
        slope, intercept = mapping.slope, mapping.intercept
        if mapping.maps is Maps.QUERIES:
            query = mapping.map(query)
        elif mapping.maps is Maps.GALLERY:
            stored = mapping.map(stored).astype(np.float16).astype(np.float32)
    return float(slope * (stored.astype(np.float64) @ query[0].astype(np.float64)).max() + intercept)


@cache
def stored_vectors(seed: int, model: str) -> Floats:
    """(1 or T, D) what an index stores to rank a picture by, as float32."""
    encoder: FakeEncoder = ENCODERS[model]
    encoded = encoder.encode_images(encoder.preprocess(_picture(seed))[None])
    values = encoded.vectors if encoded.tokens is None else encoded.tokens[0]
    assert values is not None
    return values.astype(np.float16).astype(np.float32)


def differs(found: Mapping[str, Any], *states: State, mixed: bool = False) -> str:
    """What is wrong with an answer of `steps.ask`; empty if it is that of one of the states.

    Args:
        found: the answer.
        states: what it may be.
        mixed: whether each image may be as in any of the states, which have the same images: a backfill in parts.
    """
    if mixed:
        return _differs(found, states)
    wrong = [_differs(found, [state]) for state in states]
    return "" if "" in wrong else "; nor: ".join(dict.fromkeys(wrong))


def _differs(found: Mapping[str, Any], states: Sequence[State]) -> str:
    first = states[0]
    if found["model"] not in {state.serving for state in states}:
        return f"served by {found['model']}"
    if {tuple(map(str, line)) for line in found["questions"]} not in [
        {tuple(map(str, line)) for line in state.questions} for state in states
    ]:
        return f"{len(found['questions'])} judged questions that were not stored"
    if found["metadata"].keys() != first.rows.keys():
        missing, more = first.rows.keys() - found["metadata"].keys(), found["metadata"].keys() - first.rows.keys()
        return f"{len(missing)} images missing ({min(missing, default='')}), {len(more)} too many"
    hits = dict(found["hits"])
    if len(hits) != found["searched"]:
        return f"{len(hits)} images are ranked, and {found['searched']} are said to be searched"
    for image_id in first.rows:
        rows = [(state.rows[image_id], state) for state in states]
        if found["metadata"][image_id] not in [dict(row.metadata) for row, _ in rows]:
            return f"metadata of {image_id}"
        if found["digests"][image_id] not in [digest(row) for row, _ in rows]:
            return f"digest of {image_id}"
        if not any(_near(hits.get(image_id), score(row.seed, row.model, s.serving, s.route)) for row, s in rows):
            return f"score of {image_id}: {hits.get(image_id)}"
    if sorted(found["hits"], key=lambda hit: (-hit[1], hit[0])) != found["hits"]:
        return "hits out of order"
    kept = [value for _, value in found["hits"][:TOP]]
    if len(found["top"]) != len(kept) or any(
        abs(value - best) > NEAR for (_, value), best in zip(found["top"], kept, strict=True)
    ):
        return f"the first {TOP} hits"
    return ""


def _near(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) <= NEAR


@cache
def _picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
