"""Search, batches of searches, and uploads."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cir.errors import CirError, DataError
from cir.query_json import check_keys
from cir.serve import shapes
from cir.serve.answers import Json
from cir.serve.jobs import Found
from cir.serve.openapi import gives, takes
from cir.serve.problems import Refused, problem
from cir.serve.requests import asked_of, form_of, json_object, search_values
from cir.serve.routes.common import note_query, service_of
from cir.serve.settings import API
from cir.serve.uploads import preview, uploaded

router = APIRouter()

_CHECKED = 64  # pixels of a side: an upload is decoded to see that it is a picture


@router.post("/search", responses=gives(shapes.Answer), openapi_extra=takes(shapes.SearchRequest, shapes.SearchForm))
async def search(request: Request) -> Response:
    """Search with references, a text, or both."""
    service, started = service_of(request), time.perf_counter()
    asked = asked_of(await search_values(request, service.settings.limits), service.settings.limits)
    note_query(request, asked)
    (found,) = await service.search([asked])
    if not isinstance(found, Found):
        raise found
    seconds = time.perf_counter() - started

    def describe() -> Response:
        return Json(service.describer(found.gallery).answer(found, seconds))

    return await asyncio.to_thread(describe)


@router.post("/search/batch", responses=gives(shapes.BatchAnswer), openapi_extra=takes(shapes.BatchRequest))
async def search_batch(request: Request) -> Response:
    """Search for many queries; each that the index cannot answer has its own problem."""
    service = service_of(request)
    limits = service.settings.limits
    values = await json_object(request)
    check_keys(values, frozenset({"queries"}))
    given = values.get("queries")
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise DataError('"queries" is a list of queries')
    if not 0 < len(given) <= limits.batch:
        raise DataError(f'"queries" are from 1 to {limits.batch}')
    asked = []
    for number, each in enumerate(given, start=1):
        try:
            asked.append(asked_of(each, limits))
        except CirError as error:
            raise type(error)(f"query {number}: {error}") from None
    answers = await service.search(asked)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, CirError | Refused):
            raise answer  # a bug of ours

    def describe() -> Response:
        return Json(
            {
                "answers": [
                    service.describer(answer.gallery).answer(answer)
                    if isinstance(answer, Found)
                    else {
                        "id": each.query.id,
                        "problem": problem(answer, request.scope["request_id"], service.without_paths),
                    }
                    for each, answer in zip(asked, answers, strict=True)
                ]
            }
        )

    return await asyncio.to_thread(describe)


@router.post("/uploads", responses=gives(shapes.UploadsAnswer), openapi_extra=takes(form=shapes.UploadForm))
async def upload(request: Request) -> Response:
    """Keep pictures in memory for later searches."""
    service = service_of(request)
    limits = service.settings.limits
    parts = await form_of(request, limits)
    if not parts:
        raise DataError("no picture; send file parts named images")
    files = []
    for name, data in parts:
        if name != "images" or not isinstance(data, bytes):
            raise DataError(f"unknown part {name[:100]}; send file parts named images")
        files.append(data)
    found = []
    for data in files:
        sha256 = (await service.on_pictures(partial(uploaded, data, _CHECKED, limits))).sha256
        service.uploads.keep(data)
        digest = bytes.fromhex(sha256)
        same = await asyncio.to_thread(service.gallery.ids_of, [digest])
        found.append({"upload": sha256, "bytes": len(data), "same": same[digest], "preview": f"{API}/uploads/{sha256}"})
    return Json({"uploads": found})


@router.get("/uploads/{sha256}", responses=gives(media=("image/jpeg",)))
async def show_upload(request: Request, sha256: str) -> Response:
    """A JPEG of an upload."""
    service = service_of(request)
    data = service.uploads.get(sha256)
    picture = await service.on_pictures(lambda: preview(data, service.settings.limits))
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})
