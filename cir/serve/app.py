"""The ASGI app: routes, guards, and how errors are answered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from cir import __version__
from cir.errors import CirError
from cir.serve import openapi
from cir.serve.answers import Json
from cir.serve.guard import guarded
from cir.serve.problems import Refused, problem_response
from cir.serve.routes import explain, gallery, index, marks, pages, search
from cir.serve.routes.common import IdsInPaths
from cir.serve.service import Service
from cir.serve.settings import API

_WORDS = {404: "there is nothing at this address", 405: "this address takes other methods; see the header Allow"}


def make_app(service: Service) -> ASGIApp:
    """The app of a service. It begins to answer with the lifespan's start."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="cir",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_note_route)],
    )
    app.state.service, app.state.page = service, pages.page_files()
    api = APIRouter(prefix=API)
    for part in (search, gallery, index, marks, explain):
        api.include_router(part.router)
    app.include_router(api)
    app.include_router(pages.router)
    app.add_api_route(f"{API}/openapi.json", _document, include_in_schema=False)
    for kind in (CirError, Refused, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    return guarded(IdsInPaths(app), service.settings, service.metrics)


async def _document(request: Request) -> Response:
    """The OpenAPI document."""
    return Json(openapi.document(request.app))


async def _note_route(request: Request) -> None:
    """The route's path, in place of what was asked for, for the log."""
    path: str = getattr(request.scope.get("route"), "path", "other")
    inside = request.scope["path"].startswith(API) and not path.startswith(API)
    request.scope["notes"]["route"] = API + path if inside else path


async def _answer_error(request: Request, error: Exception) -> Response:
    headers: dict[str, Any] = {}
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        error = Refused(422, "DataError", f'"{where}": {first["msg"]}')
    elif isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(request)
        error = Refused(error.status_code, "NotFound", _WORDS.get(error.status_code, str(error.detail)), headers)
    service: Service = request.app.state.service
    return problem_response(error, request.scope["request_id"], service.without_paths)


def _allowed(request: Request) -> str:
    """The methods of an address; Starlette names those of one route alone."""
    paths: dict[str, dict[str, Any]] = openapi.document(request.app)["paths"]
    found = [
        method.upper()
        for path, methods in paths.items()
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), request.scope["path"])
        for method in methods
    ]
    return ", ".join(sorted(found)) or "GET"
