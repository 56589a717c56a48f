"""Composed image retrieval: search a gallery with a picture and a sentence."""

from __future__ import annotations

import os as _os
from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "BuildOptions",
    "BuildReport",
    "ExportReport",
    "Hit",
    "ImportOptions",
    "ImportReport",
    "JudgedQuery",
    "ModelCard",
    "Query",
    "SearchResult",
    "Searcher",
    "__version__",
    "build_index",
    "compact",
    "errors",
    "export_vectors",
    "import_vectors",
    "load_model",
    "merge",
    "open_index",
    "remove",
    "repair",
    "scan",
]

# A thread of torch or FAISS that waits for another one spins first. Beside any other job, what it waits for has no core
# while it spins, and a query takes ten times as long as on one thread. Waits between two steps on an idle machine are
# shorter than 10,000 spins (about 0.3 ms), and sleeping in those would cost as much as a second thread gains
# (bench/busy_machine.py). OpenMP reads this once, when torch is loaded, so no later place would do; a program that
# imports torch before cir sets it itself. Whoever has set any of these has decided, and nothing is changed.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & _os.environ.keys():
    _os.environ["GOMP_SPINCOUNT"] = "10000"  # GNU's OpenMP: Linux
    _os.environ["KMP_BLOCKTIME"] = "1"  # LLVM's and Intel's, in ms: macOS, conda

if not (_Path(__file__).parent / "indexer").is_dir():  # running from a checkout that is not installed
    __path__.append(str(_Path(__file__).parents[1]))

if TYPE_CHECKING:
    from cir import errors
    from cir.data.judged_query import JudgedQuery
    from cir.images import scan
    from cir.indexer.reading.export_vectors import ExportReport, export_vectors
    from cir.indexer.writing.build import BuildOptions, build_index
    from cir.indexer.writing.compact import compact
    from cir.indexer.writing.import_vectors import ImportOptions, import_vectors
    from cir.indexer.writing.merge_indexes import merge
    from cir.indexer.writing.remove import remove
    from cir.indexer.writing.repair import repair
    from cir.indexer.writing.report import BuildReport, ImportReport
    from cir.models import load_model
    from cir.query import Query
    from cir.search.opening import open_index
    from cir.search.searcher import Searcher
    from cir.types import Hit, ModelCard, SearchResult

_HOMES = {
    "BuildOptions": "cir.indexer.writing.build",
    "BuildReport": "cir.indexer.writing.report",
    "ExportReport": "cir.indexer.reading.export_vectors",
    "Hit": "cir.types",
    "ImportOptions": "cir.indexer.writing.import_vectors",
    "ImportReport": "cir.indexer.writing.report",
    "JudgedQuery": "cir.data.judged_query",
    "ModelCard": "cir.types",
    "Query": "cir.query",
    "SearchResult": "cir.types",
    "Searcher": "cir.search.searcher",
    "build_index": "cir.indexer.writing.build",
    "compact": "cir.indexer.writing.compact",
    "export_vectors": "cir.indexer.reading.export_vectors",
    "import_vectors": "cir.indexer.writing.import_vectors",
    "load_model": "cir.models",
    "merge": "cir.indexer.writing.merge_indexes",
    "open_index": "cir.search.opening",
    "remove": "cir.indexer.writing.remove",
    "repair": "cir.indexer.writing.repair",
    "scan": "cir.images",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import cir` costs nothing."""
    if name == "errors":
        return _import_module("cir.errors")
    if name in _HOMES:
        return getattr(_import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cir' has no attribute {name!r}")
