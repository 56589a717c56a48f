"""The OpenAPI document: routes say what they take and give by shapes, every error is a problem document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cir import __version__
from cir.serve import explained_shapes, shapes
from cir.serve.problems import MEDIA

_PREFIX = "#/components/schemas/"
_PROBLEMS = {
    "400": "The request makes no sense.",
    "401": "The server needs its token.",
    "403": "A request from another site.",
    "404": "There is no such image, upload or generation.",
    "408": "The request did not arrive in time.",
    "409": "The index is in use, or was made by another model.",
    "413": "More bytes than the server takes.",
    "415": "Another content type than the server takes.",
    "421": "The server does not go by this name.",
    "422": "Input that cannot be used.",
    "429": "Too much at once; Retry-After says when to try again.",
    "500": "A bug.",
    "503": "Not now: stopping, too slow, or the index or its model is damaged.",
}


def gives(model: type[BaseModel] | None = None, media: tuple[str, ...] = (), status: int = 200) -> dict[int | str, Any]:
    """The `responses` of a route that answers with a shape, with bytes of some media types, or with nothing."""
    content: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media}
    if model is not None:
        content = {"application/json": {"schema": {"$ref": _PREFIX + model.__name__}}}
    return {status: {"description": "The answer.", **({"content": content} if content else {})}}


def takes(model: type[BaseModel] | None = None, form: type[BaseModel] | None = None) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body itself."""
    content = {}
    if model is not None:
        content["application/json"] = {"schema": {"$ref": _PREFIX + model.__name__}}
    if form is not None:
        content["multipart/form-data"] = {"schema": {"$ref": _PREFIX + form.__name__}}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an app."""
    if app.openapi_schema is None:
        found = get_openapi(
            title="cir",
            version=__version__,
            openapi_version=app.openapi_version,
            description="Search pictures with a picture and a sentence.",
            routes=app.routes,
        )
        named = {**vars(shapes), **vars(explained_shapes)}
        kinds = [kind for kind in named.values() if isinstance(kind, type) and issubclass(kind, shapes.Shape)]
        kinds.remove(shapes.Shape)
        _, schemas = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_PREFIX + "{model}")
        found.setdefault("components", {})["schemas"] = schemas["$defs"]
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}, {}]
        problem = {"content": {MEDIA: {"schema": {"$ref": _PREFIX + "Problem"}}}}
        for methods in found["paths"].values():
            for operation in methods.values():
                for status, description in _PROBLEMS.items():
                    operation["responses"][status] = {"description": description, **problem}
        app.openapi_schema = found
    return app.openapi_schema
