"""Why an image is a hit."""

from __future__ import annotations

import base64
import io
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cir.errors import DataError
from cir.explain import Explanation, HeatMap, heat_image
from cir.explain import explain as explained_by
from cir.explain.wording import HONEST, lines_of
from cir.query_json import text
from cir.serve.answers import Json
from cir.serve.engine import query_of
from cir.serve.explained_shapes import Explained, ExplainRequest
from cir.serve.openapi import gives, takes
from cir.serve.pictures import image_of
from cir.serve.requests import asked_of, search_values
from cir.serve.routes.common import note_query, service_of

router = APIRouter()

OVERLAY = 448  # pixels of a side of a map that is drawn


@router.post("/explain", responses=gives(Explained), openapi_extra=takes(ExplainRequest))
async def explain(request: Request) -> Response:
    """What the score of an image reacts to, and how it moves with parts of the query left out."""
    service = service_of(request)
    values = await search_values(request, service.settings.limits)
    hit = text(values, "hit")
    if not hit:
        raise DataError('"hit" is the id of an image')
    asked = asked_of({key: value for key, value in values.items() if key != "hit"}, service.settings.limits)
    note_query(request, asked)
    wanted = await service.wanted(asked)
    searcher = service.engine.searcher

    def work() -> Response:
        image_id = image_of(searcher.gallery, hit).id
        explained = explained_by(searcher, query_of(searcher.gallery, wanted), image_id)
        return Json(_described(explained, service.describer(searcher.gallery).image(image_id)))

    return await service.explanations(work)


def _described(explained: Explanation, image: dict[str, Any]) -> dict[str, Any]:
    """An explanation with its maps drawn, to be laid over the pictures."""
    lines = [{"label": line.label, **line.measured.to_json(), "change": line.change} for line in lines_of(explained)]
    return {
        **explained.to_json(),
        "hit": image,
        "lines": lines,
        "honest": HONEST,
        "overlays": {
            "references": [_png(heat) for heat in explained.references],
            "hit": _png(explained.hit),
            "words": _png(explained.words),
        },
    }


def _png(heat: HeatMap | None) -> str | None:
    if heat is None:
        return None
    buffer = io.BytesIO()
    heat_image(heat, (OVERLAY, OVERLAY)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
