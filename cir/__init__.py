"""Composed image retrieval: search a gallery with a picture and a sentence."""

from __future__ import annotations

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Query", "__version__", "build_index", "load_model", "open_index"]

if not (_Path(__file__).parent / "indexer").is_dir():  # running from a checkout that is not installed
    __path__.append(str(_Path(__file__).parents[1]))

if TYPE_CHECKING:
    from cir.indexer.writing.build import build_index
    from cir.models import load_model
    from cir.search.searcher import open_index
    from cir.types import Query

_HOMES = {
    "Query": "cir.types",
    "build_index": "cir.indexer.writing.build",
    "load_model": "cir.models",
    "open_index": "cir.search.searcher",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import cir` costs nothing."""
    if name in _HOMES:
        return getattr(_import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cir' has no attribute {name!r}")
