"""Readers beside a writer: each opens the index again and again while it grows, shrinks and goes back.

A picture's bytes depend on its id alone, so a reader knows with numpy what each id must score, whatever generation it
has opened. It keeps its first gallery open to the end, and what it reads there must not change. The generations that
readers saw are compared with those that the writer published.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from cir.errors import UsageError
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.history import rollback
from tortures import steps
from tortures.cases import Arena, Case, Tally
from tortures.commands import rows_of, table_of
from tortures.processes import Bounds
from tortures.states import Row, State, differs, write_photos
from tortures.steps import ANN_MIN_ROWS, ENCODERS, Step

READERS = 2
WRITES = 12  # generations that a writer publishes in a case
SIZES = (40, 64, 30, 72, 24, 50)  # pictures in the folder, in turn


def torture(arena: Arena, tally: Tally, rounds: int) -> None:
    """One writer and two readers per round."""
    for number in range(rounds):
        with arena.case(tally, number) as case:
            if case:
                _torture(case)


def _torture(case: Case) -> None:
    index, done = case.folder / "x.index", case.folder / "done"
    arguments = {"index": str(index), "photos": str(case.folder / "photos"), "done": str(done)}
    case.did.append(f"a writer and {READERS} readers")
    first = case.run(Step("write", {**arguments, "writes": 1}), codes=(0,))
    writer = Step("write", {**arguments, "writes": WRITES, "start": case.rng.randrange(len(SIZES))})
    reader, bounds = Step("read", {"index": str(index), "done": str(done)}), Bounds(seconds=120)
    running = [(step, case.runner.start(step, bounds)) for step in (reader,) * READERS]
    written = case.run(writer, codes=(0,))
    done.touch()
    published = {line["generation"]: line["ids"] for line in map(json.loads, (first.out + written.out).splitlines())}
    for step, pid in running:
        ended = case.runner.wait(pid, bounds)
        if not case.judge(step, ended, codes=(0,)):
            continue
        for line in map(json.loads, ended.out.splitlines()):
            case.count("galleries opened by readers")
            if line["wrong"]:
                case.found("wrong", f"generation {line['generation']}: {line['wrong']}")
            elif published.get(line["generation"]) != line["ids"]:
                case.found("wrong", f"generation {line['generation']} has other images than were published")
    case.count("generations published beside readers")
    case.verify(index, after="the writer and its readers")
    case.no_leftovers(index, after="the writer and its readers")


def write(index: str, photos: str, done: str, writes: int, start: int = 0) -> None:
    """Publish generations: pictures come, go and are pruned, and now and then an earlier generation is restored.

    Prints generation and ids of each.
    """
    for number in range(start, start + writes):
        if number % 4 == 3:
            with suppress(UsageError):  # there is none to go back to yet
                rollback(Path(index))
        else:
            rows = rows_of(SIZES[number % len(SIZES)], metadata=40)
            write_photos(Path(photos), rows)
            options = BuildOptions(
                workers=1, batch_size=8, part_rows=16, prune=bool(number % 2), ann_min_rows=ANN_MIN_ROWS, keep=2
            )
            build_index(
                scan([Path(photos)]), Path(index), ENCODERS["fake-1"], options=options, metadata=table_of(State(rows))
            )
        gallery = Gallery.open(index)
        print(json.dumps({"generation": gallery.manifest.generation, "ids": list(gallery.ids)}), flush=True)


def read(index: str, done: str) -> None:
    """Open, search and compare until the file `done` exists; prints what was seen of each generation."""
    known = rows_of(max(SIZES), metadata=40)
    kept, ended = Gallery.open(index, ann_min_rows=ANN_MIN_ROWS), False
    while not ended:
        ended = Path(done).exists()
        for gallery in (Gallery.open(index, ann_min_rows=ANN_MIN_ROWS), kept):
            wrong = _wrong(gallery, known)
            seen = {"generation": gallery.manifest.generation, "ids": list(gallery.ids), "wrong": wrong}
            print(json.dumps(seen))
    sys.stdout.flush()


def _wrong(gallery: Gallery, known: dict[str, Row]) -> str:
    """What is wrong with the answers of a gallery, by numpy over the ids it has."""
    unknown = [image_id for image_id in gallery.ids if image_id not in known]
    if unknown:
        return f"ids that were never written: {unknown[:3]}"
    found: dict[str, Any] = json.loads(json.dumps(steps.look(gallery)))
    return differs({**found, "questions": []}, State({image_id: known[image_id] for image_id in gallery.ids}))


steps.STEPS.update(write=write, read=read)
