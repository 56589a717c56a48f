"""What the index holds, and how the server is."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from cir import __version__
from cir.conditions import is_number
from cir.errors import CirError
from cir.indexer.reading.column_values import ColumnValues
from cir.indexer.storage.manifest import Manifest
from cir.indexer.writing.history import generations
from cir.model_card import APART, ModelCard
from cir.search.calibration import calibrated
from cir.serve import shapes
from cir.serve.answers import Json
from cir.serve.openapi import gives
from cir.serve.problems import busy
from cir.serve.routes.common import service_of
from cir.serve.service import Service

router = APIRouter()

FEW = 100  # numbers that are listed as values too


@router.get("/health", responses=gives(shapes.Health))
async def health() -> Response:
    """Whether the server runs."""
    return Json({"status": "ok"})


@router.get("/ready", responses=gives(shapes.Ready))
async def ready(request: Request) -> Response:
    """Whether a search would be answered now."""
    service = service_of(request)
    if service.stopping:
        raise busy("the server is stopping", 5, status=503)
    if service.batcher.is_full:
        raise busy("too many queries are waiting", 1, status=503)
    return Json({"status": "ready", "generation": service.gallery.manifest.generation})


@router.get("/metrics", responses=gives(media=("text/plain",)))
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    service = service_of(request)
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/info", responses=gives(shapes.Info))
async def info(request: Request) -> Response:
    """What the index holds, and what may be asked."""
    service = service_of(request)
    return Json(await asyncio.to_thread(_info, service))


@router.get("/columns", responses=gives(shapes.ColumnsAnswer))
async def columns(request: Request, values: Annotated[int, Query(ge=0, le=1000)] = 50) -> Response:
    """The metadata columns: values with counts, and ranges of numbers."""
    service = service_of(request)
    gallery = service.gallery
    found = await service.columns(gallery)
    return Json({"generation": gallery.manifest.generation, "columns": [_column(column, values) for column in found]})


def _info(service: Service) -> dict[str, Any]:
    gallery, limits = service.gallery, service.settings.limits
    manifest, card = gallery.manifest, gallery.card
    sound: list[Manifest] = [manifest]
    with suppress(CirError):
        sound = generations(gallery.folder.root)[0]
    digests = {other.card.digest for other in sound} | {entry.model for entry in gallery.entries}
    return {
        "name": service.name,
        "version": __version__,
        "generation": manifest.generation,
        "created": manifest.created,
        "images": len(gallery),
        "searched": gallery.searched()[0],
        "damaged": sum(segment.images for segment in gallery.damaged),
        "model": _model(card),
        "queries": service.engine.texts,
        "compositions": [] if card.only_named else [card.composition],
        "min_scores": dict(calibrated(gallery).min_scores),
        "replaced": len(digests) > 1,
        "generations": [
            {
                "generation": other.generation,
                "created": other.created,
                "model": other.card.name,
                "digest": other.card.digest,
                "images": other.rows,
                "live": other.generation == manifest.generation,
                "same_model": other.card.digest == card.digest,
            }
            for other in sound
        ],
        "columns": gallery.columns,
        "explain": True,
        "pools": service.pools is not None,
        "problem": service.engine.problem,
        "limits": {
            "k": limits.k,
            "depth": limits.depth,
            "references": limits.references,
            "negatives": limits.negatives,
            "text": limits.text,
            "batch": limits.batch,
            "upload_bytes": limits.upload_bytes,
            "upload_pixels": limits.upload_pixels,
        },
    }


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "digest": card.digest,
        "architecture": card.architecture,
        "composition": card.composition,
        "weight": card.sum_weight if card.composition in APART else None,
        "dims": card.dims,
        "tokens": card.tokens,
        "source": dict(card.source),
    }


def _column(column: ColumnValues, most: int) -> dict[str, Any]:
    values = column.values
    numbers = column.minimum is not None and (values is None or len(values) > FEW or all(map(is_number, values)))
    listed = list((values or {}).items())[:most]
    return {
        "name": column.name,
        "kind": "numbers" if numbers else "texts" if values is None else "values",
        "images": column.images,
        "missing": column.missing,
        "distinct": None if values is None else len(values),
        "values": [{"value": value, "count": count} for value, count in listed],
        "more": 0 if values is None else len(values) - len(listed),
        "minimum": column.minimum,
        "maximum": column.maximum,
    }
