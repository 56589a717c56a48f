"""The page: a few files of the package, listed once, so that no name in a request becomes a path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from cir.serve.problems import Refused

router = APIRouter()

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
    "woff2": "font/woff2",
}
START = "index.html"
Files = Mapping[str, tuple[bytes, str]]  # name -> bytes and content type


def page_files() -> Files:
    """The files of the page."""
    found = {}
    for file in files("cir.serve").joinpath("page").iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None and file.is_file():
            found[file.name] = file.read_bytes(), media_type
    return found


@router.get("/", include_in_schema=False)
async def start(request: Request) -> Response:
    """The page."""
    return _file(request, START)


@router.get("/page/{name}", include_in_schema=False)
async def file(request: Request, name: str) -> Response:
    """A file of the page."""
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    known: Files = request.app.state.page
    if name not in known:
        raise Refused(404, "NotFound", "there is no such page; the API is under /api/v1")
    data, media_type = known[name]
    return Response(data, media_type=media_type, headers={"Cache-Control": "no-cache"})
