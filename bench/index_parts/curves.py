"""The part `curves`: what an index costs against its size, at powers of ten up to --rows.

An index is built of vectors and then lives: opened, queried, appended to, some of it removed, compacted. From 1e7 rows
on vectors have 128 dims and no metadata, so that they fit a small disk. Each size is kept in the work folder for the
commit it was measured on.
"""

from __future__ import annotations

import time
from typing import Any

import click

from cir.files import make_folder, remove_tree, write_json
from index_parts import base, engine, world
from index_parts.base import Setting, ms

LEAST, LARGE, LARGE_DIMS = 10_000, 10_000_000, 128
CHANGED = 1000
QUERIES = 100


def measure(setting: Setting) -> dict[str, Any]:
    """N -> costs."""
    sizes = []
    rows = LEAST
    while rows <= setting.rows:
        sizes.append(rows)
        rows *= 10
    return {"changed_rows": CHANGED, "sizes": {str(rows): _at(setting, rows) for rows in sizes or [setting.rows]}}


def _at(setting: Setting, rows: int) -> dict[str, Any]:
    made = world.make(setting, rows, LARGE_DIMS if rows >= LARGE else None)
    kept = made.folder / "curves" / f"{base.commit()}.json"
    known = base.read(kept)
    if known is None:
        click.echo(f"{rows:,} rows", err=True)
        known = _life(setting, made)
        make_folder(kept.parent)
        write_json(kept, known)
    return dict(known)


def _life(setting: Setting, made: world.World) -> dict[str, Any]:
    index = made.folder / "curves" / "index"
    remove_tree(index)
    vectors, metadata = made.vectors(), world.metadata(made.rows)
    vectors.max()  # reads the file
    figures: dict[str, Any] = {"dims": made.dims, "metadata": made.rows < world.WITH_METADATA}

    def clocked(name: str, function: Any) -> None:
        started = time.perf_counter()
        function()
        figures[f"{name}_s"] = round(time.perf_counter() - started, 3)

    card = engine.card_of(made.index)
    ids = world.ids(made.rows)
    clocked("write", lambda: engine.write_index(index, card, ids, metadata, _blocks(vectors)))
    clocked("ann", lambda: engine.build_ann(index))
    figures["bytes_per_vector"] = round(sum(f.stat().st_size for f in index.rglob("*") if f.is_file()) / made.rows, 1)
    figures |= _asked(setting, made, index)
    added = world.ids(CHANGED, made.rows)
    new = vectors[:CHANGED][::-1].copy()
    clocked("append", lambda: engine.append(index, card, added, new))
    step = max(1, made.rows // CHANGED)
    clocked("remove", lambda: engine.remove(index, ids=ids[::step][:CHANGED]))
    figures["after_changes"] = _asked(setting, made, index)
    clocked("compact", lambda: engine.compact(index))
    figures["after_compacting"] = _asked(setting, made, index)
    remove_tree(index)
    return figures


def _blocks(vectors: Any) -> Any:
    return (vectors[start : start + world.BLOCK] for start in range(0, len(vectors), world.BLOCK))


def _asked(setting: Setting, made: world.World, index: Any) -> dict[str, Any]:
    """Opening, and a query in either way, in milliseconds; a first opening checks new files."""
    started = time.perf_counter()
    gallery = engine.opened(index)
    first = ms(time.perf_counter() - started)
    opened = [base.timed(lambda: engine.opened(index)) for _ in range(5)]
    queries = engine.vectors_of(gallery, made.queries["photos"][:QUERIES])
    figures: dict[str, Any] = {
        "first_open_ms": first,
        "open_ms": ms(sorted(opened)[2]),
        "segments": engine.segments(index),
    }
    for name, exact in (("ann", False), ("exact", True)):
        times: list[float] = []
        for place in range(QUERIES):
            query = queries[place : place + 1]
            times.append(base.timed(lambda query=query, exact=exact: engine.search(gallery, query, exact=exact)))
            if sum(times[1:]) > setting.seconds and len(times) > 5:
                break
        figures[f"{name}_query"] = base.percentiles(times[1:])
    return figures
