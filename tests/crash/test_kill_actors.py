"""Actors of `cir serve --ray` killed with -9 at random moments: answers come, say what they cover, and are right.

CIR_KILLS says how many are killed; the default is for every day.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")
pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("httpx")

import ray
from ray.exceptions import RayActorError

import cir
from cir.cluster.searching import Parts
from cir.cluster.session import joined
from cir.indexer.reading.gallery import Gallery
from cir.serve.settings import Limits, Settings
from cir.testing.fakes import FakeEncoder, make_index, random_rows
from cir.testing.spread import attempts
from cir.types import ModelCard

if TYPE_CHECKING:
    from cir.testing.served import Served

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("CIR_KILLS", "4"))
ROWS = 600
DEADLINE = 5.0  # long beside a search, so that a busy machine is not taken for a lost actor
EXTRA = 25.0  # seconds for the rest of an answer on a machine that is starting actors at the same time
WORDS = ("red", "blue", "with stripes", "a darker one")


def load(card: ModelCard) -> FakeEncoder:
    return FakeEncoder(tokens=0)


class Asking(threading.Thread):
    """Asks one query after the other until it is stopped; keeps each answer and how long it took."""

    def __init__(self, api: Served) -> None:
        super().__init__(name="asking")
        self._api, self._done = api, threading.Event()
        self.answers: list[tuple[str, dict[str, Any], float]] = []

    def run(self) -> None:
        rng = random.Random(7)
        while not self._done.is_set():
            text, started = rng.choice(WORDS), time.monotonic()
            answer = self._api.search(text=text, k=ROWS)
            self.answers.append((text, answer, time.monotonic() - started))

    def stop(self) -> None:
        self._done.set()
        self.join()


@pytest.mark.parametrize("replicas", [1, 2])
def test_actors_killed_while_serving(tmp_path: Path, replicas: int) -> None:
    from cir.testing.served import Served

    ids = [f"{number * 7919 % 1009:04d}" for number in range(ROWS)]
    index = make_index(tmp_path / "x.index", [random_rows(ids[start::6], seed=start) for start in range(6)])
    whole = cir.Searcher(Gallery.open(index), load)
    expected = {text: _pairs(whole.search(cir.Query(text=text, k=ROWS)).hits) for text in WORDS}
    rng = random.Random(11 + replicas)
    with joined("local", 2), Parts(index, parts=3, replicas=replicas, deadline=DEADLINE) as parts:
        searcher = cir.Searcher(Gallery.open(index, spread=parts), load)
        with Served(searcher, Settings(limits=Limits(rate=0))) as api:
            asking = Asking(api)
            asking.start()
            try:
                for _ in range(KILLS):
                    _kill(rng.choice(parts._every()))
                    time.sleep(rng.uniform(0, 0.5))  # the moment of the next one is random; nothing is waited for
                for _ in attempts("all parts answer again"):  # by themselves, while queries go on
                    last = {text: api.search(text=text, k=ROWS) for text in WORDS}
                    if all(answer["coverage"] == 1 for answer in last.values()):
                        break
            finally:
                asking.stop()
            assert {text: _pairs_of(answer) for text, answer in last.items()} == expected
        held = {
            name: part for part, names in enumerate(parts.parts(searcher.gallery._opened.pointer)) for name in names
        }
    part_of = {
        image_id: held[entry.name]
        for number, entry in enumerate(searcher.gallery.entries)
        for image_id in searcher.gallery.rows.ids_of(number)
    }
    assert asking.answers
    for text, answer, seconds in asking.answers:
        assert seconds < DEADLINE + EXTRA
        found = _pairs_of(answer)
        covered = {part_of[image_id] for image_id, _ in found}
        assert found == [pair for pair in expected[text] if part_of[pair[0]] in covered]
        assert answer["searched"] == len(found)
        assert answer["coverage"] == pytest.approx(len(found) / ROWS, abs=1e-5)
    if replicas == 1:
        assert any(answer["coverage"] < 1 for _, answer, _ in asking.answers)


def _kill(replica: Any) -> None:
    with suppress(RayActorError):  # it was killed a moment ago, and has not come again
        os.kill(ray.get(replica.measure(), timeout=120).process, signal.SIGKILL)


def _pairs(hits: Any) -> list[tuple[str, float]]:
    return [(hit.id, round(hit.score, 6)) for hit in hits]


def _pairs_of(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(hit["id"], hit["score"]) for hit in answer["hits"]]
