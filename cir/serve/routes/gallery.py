"""Images of the gallery: their photos, thumbnails and metadata, and some at random."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.stored_image import StoredImage
from cir.serve import shapes
from cir.serve.answers import Json
from cir.serve.openapi import gives
from cir.serve.pictures import Photo, image_of, photo_of, thumbnail_of
from cir.serve.problems import Refused
from cir.serve.routes.common import image_id_of, service_of
from cir.serve.service import Service
from cir.serve.thumbnails import SIDE, SIDES

router = APIRouter()

_VERSION = Query(max_length=64, description="Digits of the photo's SHA-256; with them it may be kept for ever.")
_TRIES = 3  # images looked at for each that is wanted: some have no photo
_FOR_EVER = "private, max-age=31536000, immutable"
# A photo that is opened by itself may run nothing and load nothing.
_ALONE = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


@router.get(
    "/images/{image_id}", responses=gives(media=("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"))
)
async def image(request: Request, image_id: str, v: Annotated[str | None, _VERSION] = None) -> Response:
    """The photo of an image, as it is where browsers show it, else as a JPEG."""
    return await _picture(request, v, "", lambda service, stored: photo_of(stored))


@router.get("/thumbnails/{image_id}", responses=gives(media=("image/jpeg",)))
async def thumbnail(
    request: Request,
    image_id: str,
    size: Annotated[int, Query(description="Of the longer side.", json_schema_extra={"enum": list(SIDES)})] = SIDE,
    v: Annotated[str | None, _VERSION] = None,
) -> Response:
    """A small JPEG of an image."""
    if size not in SIDES:
        raise Refused(422, "DataError", f'"size" is one of {", ".join(map(str, SIDES))}')
    return await _picture(request, v, f"-{size}", lambda service, stored: _thumbnail(service, stored, size))


@router.get("/metadata/{image_id}", responses=gives(shapes.Image))
async def metadata(request: Request, image_id: str) -> Response:
    """What the index says about an image."""
    service, name = service_of(request), image_id_of(request)

    def describe() -> Response:
        describer = service.describer()
        return Json(describer.image(image_of(describer.gallery, name).id))

    return await asyncio.to_thread(describe)


@router.get("/random", responses=gives(shapes.RandomAnswer))
async def random(
    request: Request,
    n: Annotated[int, Query(ge=1, le=200)] = 24,
    seed: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
) -> Response:
    """Some images of the gallery, those with a photo first; the same for the same seed and generation."""
    service = service_of(request)
    drawn = int(np.random.default_rng().integers(2**31)) if seed is None else seed

    def describe() -> Response:
        describer = service.describer()
        images = describer.images(_some(describer.gallery, n * _TRIES, drawn))
        images.sort(key=lambda image: not image["photo"])
        generation = describer.gallery.manifest.generation
        return Json({"seed": drawn, "generation": generation, "images": images[:n]})

    return await asyncio.to_thread(describe)


def _some(gallery: Gallery, count: int, seed: int) -> list[str]:
    rows = np.flatnonzero(gallery.rows.live())
    chosen = np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False)
    return [gallery.rows.id_of(int(row)) for row in chosen]


async def _picture(
    request: Request, version: str | None, suffix: str, make: Callable[[Service, StoredImage], Photo]
) -> Response:
    service = service_of(request)
    stored = image_of(service.gallery, image_id_of(request))
    digest = stored.digest.hex()
    tag = f'"{digest[:32]}{suffix}"'
    kept = bool(version) and digest.startswith(version or "") and len(version or "") >= 8
    headers = {
        "ETag": tag,
        "Cache-Control": _FOR_EVER if kept else "private, no-cache",
        "Content-Security-Policy": _ALONE,
    }
    if tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    photo = await service.on_pictures(lambda: make(service, stored))
    return Response(photo.data, headers=headers, media_type=photo.media_type)


def _thumbnail(service: Service, stored: StoredImage, size: int) -> Photo:
    sha256 = stored.digest.hex()
    data = service.thumbnails.get(sha256, size)
    source = "kept" if data else "made"
    if data is None:
        data = thumbnail_of(stored, size)
        service.thumbnails.put(sha256, size, data)
    service.metrics.thumbnails.labels(source).inc()
    return Photo(data, "image/jpeg")
