"""Readers beside a writer: they open the index again, or refresh, while it grows, shrinks, is compacted and goes back.

A picture's bytes depend on its id alone, so a reader knows with numpy what each id must score, whatever generation it
has opened. It keeps its first gallery open to the end, and what it reads there must not change. The generations that
readers saw are compared with those that the writer published.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from cir.errors import UsageError
from cir.files import sha256_bytes
from cir.images import scan
from cir.indexer.reading.gallery import Gallery, refreshed
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.compact import compact
from cir.indexer.writing.history import rollback
from cir.indexer.writing.remove import remove
from tortures import steps
from tortures.cases import Arena, Case, Tally
from tortures.commands import rows_of, table_of
from tortures.processes import Bounds
from tortures.states import Row, State, differs, write_photos
from tortures.steps import ANN_MIN_ROWS, ENCODERS, Step

SHORT, LONG = 2, 8  # readers
WRITES = 12  # generations that a writer publishes in a short case
SIZES = (40, 64, 30, 72, 24, 50)  # pictures in the folder, in turn
GRACE = 120  # seconds for the last answers


def torture(arena: Arena, tally: Tally, rounds: int) -> None:
    """One writer and its readers per round."""
    for number in range(rounds):
        with arena.case(tally, number) as case:
            if case:
                _torture(case, arena.seconds)


def _torture(case: Case, seconds: float) -> None:
    """A writer and its readers, for that many seconds, or for WRITES generations if 0."""
    index, done, count = case.folder / "x.index", case.folder / "done", LONG if seconds else SHORT
    arguments = {"index": str(index), "photos": str(case.folder / "photos")}
    case.did.append(f"a writer and {count} readers")
    first = case.run(Step("write", {**arguments, "writes": 1}), codes=(0,))
    much = {"writes": 10**9, "seconds": seconds} if seconds else {"writes": WRITES}
    writer = Step("write", {**arguments, **much, "seed": case.rng.randrange(10**6)})
    bounds = Bounds(seconds=seconds + GRACE)
    readers = [Step("read", {"index": str(index), "done": str(done), "seed": number}) for number in range(count)]
    running = [(step, case.runner.start(step, bounds)) for step in readers]
    written = case.run(writer, bounds, codes=(0,))
    done.touch()
    lines = [json.loads(line) for line in (first.out + written.out).splitlines()]
    published = {str(line["generation"]): line["ids"] for line in lines}
    for line in lines:
        case.count(f"published beside readers: {line['by']}")
    seen = set()
    for step, pid in running:
        ended = case.runner.wait(pid, bounds)
        if not case.judge(step, ended, codes=(0,)):
            continue
        found = ended.json
        seen |= found["seen"].keys()
        for name, times in found["counts"].items():
            case.count(name, times)
        for wrong in found["wrong"]:
            case.found("wrong", wrong)
        for generation, ids in found["seen"].items():
            if published.get(generation) != ids:
                case.found("wrong", f"generation {generation} has other images than were published")
    case.count("generations that a reader saw", len(seen))
    case.verify(index, after="the writer and its readers")
    case.no_leftovers(index, after="the writer and its readers")


def write(index: str, photos: str, writes: int, seconds: float = 0, seed: int = 0) -> None:
    """Publish generations, at most that many, and if `seconds` is given for at most that long.

    Pictures come, go and are pruned or removed; segments are joined, and now and then an earlier generation is
    restored. Prints generation, a digest of its ids and what made it.
    """
    rng, end = random.Random(seed), time.monotonic() + seconds
    for number in range(writes):
        if seconds and time.monotonic() > end:
            break
        by = rng.choice(("append", "prune", "remove", "compact", "rollback")) if number or seed else "append"
        if by == "rollback":
            with suppress(UsageError):  # there is none to go back to yet
                rollback(Path(index))
        elif by == "remove":
            ids = Gallery.open(index).ids
            remove(index, ids=rng.sample(ids, min(5, len(ids) - 5)) if len(ids) > 10 else ids[:1])
        elif by == "compact":
            compact(index, keep=rng.choice((0, 2, None)), ann_min_rows=ANN_MIN_ROWS)
        else:
            _build(Path(index), Path(photos), SIZES[rng.randrange(len(SIZES))], prune=by == "prune")
        gallery = Gallery.open(index)
        print(json.dumps({"generation": gallery.manifest.generation, "ids": _digest(gallery), "by": by}), flush=True)


def _build(index: Path, photos: Path, size: int, *, prune: bool) -> None:
    rows = rows_of(size, metadata=40)
    write_photos(photos, rows)
    options = BuildOptions(workers=1, batch_size=8, part_rows=16, prune=prune, ann_min_rows=ANN_MIN_ROWS, keep=2)
    build_index(scan([photos]), index, ENCODERS["fake-1"], options=options, metadata=table_of(State(rows)))


def read(index: str, done: str, seed: int) -> None:
    """Open or refresh, search and compare until the file `done` exists; prints what was seen of each generation."""
    known, rng = rows_of(max(SIZES), metadata=40), random.Random(seed)
    kept = current = Gallery.open(index, ann_min_rows=ANN_MIN_ROWS)
    seen: dict[int, str] = {}
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    ended = False
    while not ended:
        ended = Path(done).exists()
        how = rng.choice(("opened", "refreshed", "refreshed", "kept"))
        if how == "opened":
            current = Gallery.open(index, ann_min_rows=ANN_MIN_ROWS)
        elif how == "refreshed":
            current = refreshed(current)
        gallery = kept if how == "kept" else current
        counts[f"galleries {how} and asked"] += 1
        generation, ids = gallery.manifest.generation, _digest(gallery)
        if fault := _wrong(gallery, known):
            wrong.append(f"generation {generation}, {how}: {fault}")
        if seen.setdefault(generation, ids) != ids:
            wrong.append(f"generation {generation}, {how}, had other images before")
    print(json.dumps({"seen": seen, "wrong": wrong[:20], "counts": counts}))


def _digest(gallery: Gallery) -> str:
    return sha256_bytes("\n".join(gallery.ids).encode())


def _wrong(gallery: Gallery, known: dict[str, Row]) -> str:
    """What is wrong with the answers of a gallery, by numpy over the ids it has."""
    unknown = [image_id for image_id in gallery.ids if image_id not in known]
    if unknown:
        return f"ids that were never written: {unknown[:3]}"
    found: dict[str, Any] = json.loads(json.dumps(steps.look(gallery)))
    return differs({**found, "questions": []}, State({image_id: known[image_id] for image_id in gallery.ids}))


steps.STEPS.update(write=write, read=read)
