"""What a tortured process does: a command of `cir`, or a call of the Python API that ends as a command would.

`python bench/tortures/steps.py NAME ARGUMENTS` runs one step in a fresh interpreter; ARGUMENTS is a file of JSON.
Models are fakes: their vectors depend on the pixels alone, and torch is never imported.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from cir import models
from cir.cli import cli, main
from cir.errors import CirError, UsageError
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.verify import NOT_CHECKED, unnamed, verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.questions import read_questions
from cir.indexer.writing.backfill import backfill as run_backfill
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.compact import compact as compact_index
from cir.indexer.writing.history import generations
from cir.indexer.writing.import_vectors import ImportOptions, import_vectors
from cir.indexer.writing.merge_indexes import merge as merge_indexes
from cir.indexer.writing.remove import remove as remove_images
from cir.indexer.writing.repair import repair
from cir.indexer.writing.serve import serve_model
from cir.mappings import Maps
from cir.query_vectors import QueryVectors
from cir.search import Searcher
from cir.testing.fakes import FakeEncoder
from cir.testing.two_models import MAPPINGS, NEW, OLD
from cir.types import ModelCard, Query

ANN_MIN_ROWS = 20
CAPTION = "in red, with long sleeves"
TOP = 5
TOKENS = FakeEncoder("tokens-1", vector=False)
ENCODERS: dict[str, FakeEncoder] = {encoder.card.name: encoder for encoder in (FakeEncoder(), OLD, NEW, TOKENS)}
ROUTES = {mapping.route.value: mapping for mapping in MAPPINGS}


class Step(NamedTuple):
    """A function of this module by its name, and its arguments, which are JSON values."""

    name: str
    arguments: Mapping[str, Any]


def cir(*words: object) -> Step:
    """A command of the command line."""
    return Step("cir", {"words": [str(word) for word in words]})


def build(
    photos: str,
    index: str,
    model: str = "fake-1",
    metadata: Mapping[str, Mapping[str, str]] | None = None,
    prune: bool = False,
    ann_min_rows: int = 10**9,
    keep: int | None = None,
) -> None:
    """Build an index in small batches; prints its generation."""
    report = build_index(
        scan([Path(photos)]),
        Path(index),
        ENCODERS[model],
        options=BuildOptions(workers=2, batch_size=4, part_rows=8, prune=prune, ann_min_rows=ann_min_rows, keep=keep),
        metadata=metadata,
    )
    print(json.dumps({"generation": report.generation, "skipped": report.skipped}))


def serve(index: str, route: str) -> None:
    """Let the new model serve an index of the old one; does nothing if it serves already."""
    manifest = Gallery.open(index).manifest
    if manifest.serving != NEW.card.digest:
        mapping = ROUTES[route]
        manifest = serve_model(Path(index), NEW, {mapping.space: mapping}, generation=manifest.generation)
    print(json.dumps({"generation": manifest.generation}))


def backfill(index: str, part: int, count: int | None = None) -> None:
    """Encode images of the old model again; prints the generations."""
    for state in run_backfill(Path(index), NEW, part=part, count=count, ann_min_rows=ANN_MIN_ROWS):
        print(json.dumps({"generation": state.generation}), flush=True)


def remove(index: str, ids: list[str]) -> None:
    """Remove those of some images that are there; prints the generation."""
    gallery = Gallery.open(index)
    generation, left = gallery.manifest.generation, [image_id for image_id in ids if image_id in gallery]
    print(json.dumps({"generation": remove_images(index, ids=left).generation if left else generation}))


def compact(index: str, keep: int | None = None) -> None:
    """Join the segments; prints the generation."""
    print(json.dumps({"generation": compact_index(index, keep=keep, ann_min_rows=ANN_MIN_ROWS).generation}))


def merge(indexes: list[str], index: str) -> None:
    """Make one index out of several, unless it is there."""
    if not Path(index).exists():
        merge_indexes(indexes, index, ann_min_rows=ANN_MIN_ROWS)
    print(json.dumps({"generation": 1}))


def add_vectors(index: str, rows: Mapping[str, list[float]], metadata: Mapping[str, Mapping[str, str]]) -> None:
    """Import vectors of the old model by id; prints the generation."""
    options = ImportOptions(ann_min_rows=ANN_MIN_ROWS)
    vectors = np.array(list(rows.values()), np.float32)
    report = import_vectors(vectors, index, OLD.card, ids=list(rows), metadata=metadata, options=options)
    print(json.dumps({"generation": report.generation}))


def spoil(index: str) -> None:
    """Flip a bit of the newest segment, where its ids can still be read."""
    path = max(Path(index).glob("segments/*/gallery.h5"))
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def use(index: str) -> None:
    """One query as a user asks it, which logs what it retrieves from older spaces."""
    searcher = Searcher(Gallery.open(index), lambda card: ENCODERS[card.name], keep_usage=True)
    searcher.search(Query(text=CAPTION))


def queries_for(gallery: Gallery, caption: str = CAPTION) -> QueryVectors:
    """A caption in every space in which a gallery is searched. Raises UsageError for a model that is no fake."""
    encoder = next((fake for fake in ENCODERS.values() if fake.card.digest == gallery.card.digest), None)
    if encoder is None:
        raise UsageError(f"no model {gallery.card.digest}")
    native = encoder.encode_texts([caption])
    by_space = dict.fromkeys(gallery.query_spaces, native)
    for space, mapping in gallery.mappings.items():
        if mapping.maps is Maps.QUERIES:
            by_space[space] = mapping.map(native)
    return QueryVectors({space: by_space[space] for space in gallery.query_spaces})


def look(gallery: Gallery) -> dict[str, Any]:
    """Everything that a reader can see of a gallery, as JSON values."""
    vectors = queries_for(gallery)
    (hits,) = gallery.search(vectors, RankingOptions(10**6, exact=True))
    (top,) = gallery.search(vectors, RankingOptions(TOP))
    images = {image_id: gallery.image(image_id) for image_id in gallery.ids}
    return {
        "generation": gallery.manifest.generation,
        "model": gallery.card.name,
        "left_out": sum(segment.images for segment in gallery.damaged),
        "searched": gallery.searched()[0],
        "hits": hits,
        "top": top,
        "metadata": {image_id: image.metadata for image_id, image in images.items()},
        "digests": {image_id: image.digest.hex() for image_id, image in images.items()},
    }


def ask(index: str) -> None:
    """Open an index, search it, read everything that it says of its images, and its judged questions; prints JSON."""
    print(json.dumps(seen(index)))


def seen(index: str) -> dict[str, Any]:
    """What a reader sees of an index that it opens: `look`, and the judged questions."""
    gallery = Gallery.open(index, ann_min_rows=ANN_MIN_ROWS)
    questions = read_questions(IndexFolder(Path(index)))
    asked = [[query.id, query.reference, query.caption, sorted(query.targets)] for query in questions.queries]
    return {**look(gallery), "questions": asked}


def inspect(index: str) -> None:
    """What `verify` says of an index, and then what a reader sees of it; prints JSON, whatever is damaged."""
    print(json.dumps(inspected(Path(index))))


def mend(index: str) -> None:
    """As `inspect`, before a repair and after it; prints both, and what the repair reports or refuses."""
    before = inspected(Path(index))
    try:
        repaired: object = repair(index, ann_min_rows=ANN_MIN_ROWS).to_json()
    except CirError as error:
        repaired = str(error)
    print(json.dumps({"before": before, "repair": repaired, "after": inspected(Path(index))}))


def inspected(index: Path) -> dict[str, Any]:
    """Problems, generations, names that `verify` leaves out, and what is seen, or why nothing is."""
    said: dict[str, Any] = {"problems": [], "unread": [], "generations": [], "refused": "", "seen": None}
    try:
        said["problems"] = verify(index)
        said["generations"] = [manifest.generation for manifest in generations(index)[0]]
        said["unread"] = [*NOT_CHECKED, *unnamed(index)]
    except CirError as error:
        said["problems"].append(str(error))
    try:
        said["seen"] = seen(str(index))
    except CirError as error:
        said["refused"] = str(error)
    return said


STEPS: dict[str, Callable[..., None]] = {
    step.__name__: step
    for step in (build, serve, backfill, remove, compact, merge, add_vectors, spoil, use, ask, inspect, mend)
}


def perform(step: Step) -> None:
    """Run a step as the command line does, errors and exit code included. Always raises SystemExit."""
    logging.getLogger().setLevel(logging.ERROR)  # what is built again is said on stderr
    words = ["torture"]
    if step.name == "cir":
        words = step.arguments["words"]
        if words[0] == "build-index":
            models.load_model = _load  # type: ignore[assignment]
            models.find_for = _find_for  # type: ignore[assignment]
    else:
        called = STEPS[step.name]
        cli.add_command(click.Command("torture", callback=lambda: called(**step.arguments)))
    sys.argv = ["cir", *words]
    main()


def _load(name: str | Path = "", **_: object) -> FakeEncoder:
    return ENCODERS.get(str(name), ENCODERS["fake-1"])


def _find_for(card: ModelCard, *_: object, **__: object) -> str:
    return card.name


if __name__ == "__main__":
    perform(Step(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))
