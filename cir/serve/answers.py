"""Answers as plain JSON values. No path of a file is among them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from cir.errors import CirError
from cir.images.files import is_canonical
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.stored_image import StoredImage
from cir.search.calibration import calibrated
from cir.serve.jobs import Found, Uploaded
from cir.serve.settings import API
from cir.types import Hit

_VERSION = 12  # digits of a photo's digest in its address; another photo has another address


class Json(Response):
    """A JSON response in ASCII: ids need not be valid Unicode."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of a value."""
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class Describer:
    """What is said about the images of one generation.

    Attributes:
        gallery: the generation.
        history: name of a segment -> the earliest generation that is kept and has it.
    """

    gallery: Gallery
    history: Mapping[str, int]

    def image(self, image_id: str) -> dict[str, Any]:
        """One image. Raises UsageError if the gallery has none of that id."""
        image = self.gallery.image(image_id)
        return _image(image, photo=_has_photo(image))

    def images(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Several images."""
        return [self.image(image_id) for image_id in ids]

    def answer(self, found: Found, seconds: float | None = None) -> dict[str, Any]:
        """The answer to one query; `seconds` in place of the time that its batch took."""
        result, wanted = found.result, found.wanted
        floor = None
        if result.confident is not None:
            floor = calibrated(self.gallery).min_scores.get("composed" if wanted.references else "text")
        shown = result.hits[wanted.offset :]
        return {
            "id": wanted.query.id,
            "query": self._query(found),
            "hits": [self._hit(hit, floor) for hit in shown],
            "confident": result.confident,
            "floor": floor,
            "more": len(result.hits) == wanted.query.k and result.searched > len(result.hits),
            "searched": result.searched,
            "unsearched": result.unsearched,
            "damaged": result.damaged,
            "coverage": round(result.coverage, 6),
            "unread": list(result.unread),
            "model": result.model,
            "generation": self.gallery.manifest.generation,
            "seconds": round(result.seconds if seconds is None else seconds, 4),
        }

    def _query(self, found: Found) -> dict[str, Any]:
        wanted = found.wanted
        return {
            "references": [
                {"upload": each.sha256} if isinstance(each, Uploaded) else each for each in wanted.references
            ],
            "text": wanted.query.text,
            "negatives": list(wanted.query.negatives),
            "where": [str(condition) for condition in wanted.query.where],
            "k": wanted.query.k - wanted.offset,
            "offset": wanted.offset,
            "exact": wanted.exact,
        }

    def _hit(self, hit: Hit, floor: float | None) -> dict[str, Any]:
        image = self.gallery.image(hit.id)
        manifest = self.gallery.manifest
        older = image.space != self.gallery.space.id
        mapping = self.gallery.mappings.get(image.space) if older else None
        segment = image.segment.segment.path.parent.name
        return {
            "rank": hit.rank,
            "score": round(hit.score, 6),
            "confident": None if floor is None else hit.score >= floor,
            **_image(image, photo=hit.path is not None),
            "model": manifest.maker(image.space).name,
            "older": older,
            "route": mapping.route.value if mapping else None,
            "generation": self.history.get(segment, manifest.generation),
        }


def _image(image: StoredImage, *, photo: bool) -> dict[str, Any]:
    address = f"{_address(image.id)}?v={image.digest.hex()[:_VERSION]}" if photo else None
    return {
        "id": image.id,
        "metadata": image.metadata,
        "photo": photo,
        "image": f"{API}/images/{address}" if photo else None,
        "thumbnail": f"{API}/thumbnails/{address}" if photo else None,
    }


def _address(image_id: str) -> str:
    """An id within a URL, percent-encoded so that nothing on the way takes a part of it for "." or ".."."""
    return quote(image_id.encode("utf-8", "surrogateescape"), safe="/" if is_canonical(image_id) else "")


def _has_photo(image: StoredImage) -> bool:
    try:
        return bool(image.file)
    except CirError:
        return False
