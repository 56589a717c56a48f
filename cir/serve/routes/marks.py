"""Marks: what people say of hits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cir.errors import DataError, MissingImageError, UsageError
from cir.query_json import check_keys, whole_number
from cir.replacement.gate import MIN_QUERIES
from cir.serve import shapes
from cir.serve.answers import Json
from cir.serve.jobs import Found
from cir.serve.marks import good_for, shuffled, subject_of
from cir.serve.openapi import gives, takes
from cir.serve.pictures import image_of
from cir.serve.problems import Refused
from cir.serve.requests import Asked, caption_of, generation_of, json_object, references_of, truth
from cir.serve.routes.common import service_of
from cir.serve.service import Service
from cir.types import Query

router = APIRouter()

_ABOUT = {"references", "text"}
_MOST_GENERATIONS = 10


@router.get("/marks", responses=gives(shapes.MarksAnswer))
async def marks(request: Request) -> Response:
    """How many marks there are, and what they are good for."""
    return Json(await asyncio.to_thread(_counts, service_of(request)))


@router.post("/marks/of", responses=gives(shapes.Judged), openapi_extra=takes(shapes.MarkedQuery))
async def marks_of(request: Request) -> Response:
    """What was said of the images of one query."""
    service = service_of(request)
    values = await json_object(request)
    check_keys(values, frozenset(_ABOUT))
    references = references_of(values, service.settings.limits)
    caption = caption_of(values, service.settings.limits)

    def describe() -> Response:
        try:
            subject = subject_of(service.gallery, references, caption)
        except UsageError as error:
            return Json({"right": [], "wrong": [], "markable": False, "reason": str(error)})
        right, wrong = service.marks.judged(service.gallery, subject)
        return Json({"right": right, "wrong": wrong, "markable": True, "reason": ""})

    return await asyncio.to_thread(describe)


@router.put("/marks", responses=gives(shapes.MarksAnswer), openapi_extra=takes(shapes.MarkRequest))
async def put_mark(request: Request) -> Response:
    """Say whether an image answers a query; a later word replaces an earlier one."""
    values = await json_object(request)
    if "right" not in values:
        raise DataError('"right" is true or false')
    return await _say(request, values, truth(values, "right"))


@router.delete("/marks", responses=gives(shapes.MarksAnswer), openapi_extra=takes(shapes.UnmarkRequest))
async def delete_mark(request: Request) -> Response:
    """Take back what was said of an image."""
    values = await json_object(request)
    if "right" in values:
        raise DataError('"right" is for PUT; leave it out')
    return await _say(request, values, None)


@router.post("/pool", responses=gives(shapes.PoolAnswer), openapi_extra=takes(shapes.PoolRequest))
async def pool(request: Request) -> Response:
    """The first hits of several generations, shuffled, without those that are judged already."""
    service = service_of(request)
    limits = service.settings.limits
    values = await json_object(request)
    check_keys(values, frozenset(_ABOUT | {"generations", "k"}))
    references, caption = references_of(values, limits), caption_of(values, limits)
    numbers = _generations(values)
    if not 0 < len(numbers) <= 3:
        raise DataError('"generations" are from 1 to 3')
    k = whole_number(values, "k", 10, 100)
    subject = await asyncio.to_thread(subject_of, service.gallery, references, caption)
    query = Query(text=caption.strip(), k=k)
    answers = await service.search([Asked(references, query, generation=number) for number in numbers])
    found = []
    for answer in answers:
        if not isinstance(answer, Found):
            raise answer
        found.append(answer)

    def describe() -> Response:
        describer = service.describer()
        gallery = describer.gallery
        judged = set().union(*service.marks.judged(gallery, subject))
        ids = {hit.id for answer in found for hit in answer.result.hits if hit.id in gallery}
        return Json(
            {
                "images": describer.images(shuffled(sorted(ids - judged), subject)),
                "judged": len(ids & judged),
                "generations": numbers,
            }
        )

    return await asyncio.to_thread(describe)


@router.get("/pools", responses=gives(shapes.PoolsAnswer))
async def pools(request: Request) -> Response:
    """What is left to judge before marks can decide about a new model (`cir serve --judge-pool`)."""
    service = service_of(request)
    if service.pools is None:
        raise Refused(404, "UsageError", "no new model is judged here; start the server with --judge-pool MODEL")
    left = service.pools.left
    return Json(await asyncio.to_thread(lambda: left(service.describer(), service.marks)))


async def _say(request: Request, values: dict[str, Any], right: bool | None) -> Response:
    service = service_of(request)
    check_keys(values, frozenset(_ABOUT | {"image", "right", "generations", "pool"}))
    limits = service.settings.limits
    references, caption = references_of(values, limits), caption_of(values, limits)
    image = values.get("image")
    if not isinstance(image, str) or not image:
        raise DataError('"image" is the id of an image')
    numbers, from_pool = _generations(values), truth(values, "pool")

    def keep() -> Response:
        gallery = service.gallery
        name = image_of(gallery, image).id
        subject = subject_of(gallery, references, caption)
        models = service.pools.models if from_pool and service.pools else _models(service, numbers)
        service.marks.say(gallery, subject, name, models, right)
        return Json(_counts(service))

    return await asyncio.to_thread(keep)


def _counts(service: Service) -> dict[str, Any]:
    found = service.marks.of(service.gallery)
    return {
        "marks": found.marks,
        "queries": len(found.queries),
        "answered": len(found.answered),
        "gone": found.gone,
        "needed": MIN_QUERIES,
        "good_for": good_for(found, service.name),
    }


def _generations(values: dict[str, Any]) -> list[int]:
    given = values.get("generations", [])
    if not isinstance(given, list) or len(given) > _MOST_GENERATIONS:
        raise DataError('"generations" is a list of a few numbers')
    numbers = [generation_of({"generations": each}, "generations") for each in given]
    if None in numbers:
        raise DataError('"generations" is a list of a few numbers')
    return [number for number in numbers if number is not None]


def _models(service: Service, numbers: Sequence[int]) -> list[str]:
    """Digests of the models that served some generations, of the live one if none is named. Raises CirError."""
    manifest = service.gallery.manifest
    serving = {entry.generation: entry.serving for entry in manifest.earlier}
    serving[manifest.generation] = manifest.serving
    if unknown := [number for number in numbers if number not in serving]:
        raise MissingImageError(f"no generation {unknown[0]} is kept")
    return [serving[number] for number in numbers] or [manifest.serving]
