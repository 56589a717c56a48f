"""The queue: batches form, clients that go away are dropped, and too much is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cir.serve.batching import Batcher
    from cir.testing.served import Served


class Gate:
    """An answer that waits until it is let through.

    Attributes:
        batches: of jobs, as they came.
        entered: set while a batch is at the gate.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self._open = threading.Semaphore(0)

    def answer(self, jobs: list[int]) -> Sequence[str | Exception]:
        self.batches.append(jobs)
        self.entered.set()
        assert self._open.acquire(timeout=30)
        self.entered.clear()
        return [ValueError(str(job)) if job < 0 else f"answer {job}" for job in jobs]

    def let(self, batches: int = 1) -> None:
        """Let batches through."""
        self._open.release(batches)


Make = Callable[..., "Batcher[int, str]"]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def batcher(gate: Gate) -> Iterator[Make]:
    from cir.serve.batching import Batcher
    from cir.serve.metrics import Metrics
    from cir.serve.settings import Settings

    with ThreadPoolExecutor(1) as executor:
        yield lambda **settings: Batcher(gate.answer, executor, Settings(**settings), Metrics())


async def at_gate(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 30)


async def queued(batcher: Batcher[int, str], count: int) -> None:
    while len(batcher) != count:
        await asyncio.sleep(0)


def test_what_comes_while_a_batch_is_computed_is_the_next_batch(batcher: Make, gate: Gate) -> None:
    async def work() -> list[Any]:
        queue = batcher()
        queue.start()
        first = asyncio.create_task(queue.answers([0]))
        await at_gate(gate)
        others = [asyncio.create_task(queue.answers([number])) for number in range(1, 6)]
        await queued(queue, 5)
        gate.let(10)
        found = await asyncio.gather(first, *others)
        await queue.stop()
        return found

    assert asyncio.run(work()) == [[f"answer {number}"] for number in range(6)]
    assert gate.batches == [[0], [1, 2, 3, 4, 5]]


def test_a_batch_is_not_larger_than_it_may_be(batcher: Make, gate: Gate) -> None:
    async def work() -> None:
        queue = batcher(largest_batch=4)
        queue.start()
        gate.let(10)
        assert len(await queue.answers(range(10))) == 10
        await queue.stop()

    asyncio.run(work())
    assert [len(batch) for batch in gate.batches] == [4, 4, 2]
    assert [job for batch in gate.batches for job in batch] == list(range(10))


def test_a_batch_waits_for_the_clients_of_the_last_one_until_its_deadline(batcher: Make, gate: Gate) -> None:
    """The deadline is an hour away, so it is the second query that ends the waiting."""

    async def work() -> None:
        queue = batcher(window=3600.0, patience=60.0)
        queue.start()
        gate.let(10)
        await queue.answers([1, 2])
        first = asyncio.create_task(queue.answers([3]))
        await queued(queue, 1)
        assert len(gate.batches) == 1
        await queue.answers([4])
        await first
        await queue.stop()

    asyncio.run(work())
    assert gate.batches == [[1, 2], [3, 4]]


def test_a_client_that_goes_away_is_dropped(batcher: Make, gate: Gate) -> None:
    async def work() -> None:
        queue = batcher()
        queue.start()
        running = asyncio.create_task(queue.answers([0]))
        await at_gate(gate)
        leaving, staying = asyncio.create_task(queue.answers([1])), asyncio.create_task(queue.answers([2]))
        await queued(queue, 2)
        leaving.cancel()
        running.cancel()  # is computed already; its answer goes nowhere
        await queued(queue, 1)
        gate.let(10)
        assert await staying == ["answer 2"]
        await queue.stop()
        assert queue._metrics.registry.get_sample_value("cir_cancelled_total") == 1

    asyncio.run(work())
    assert gate.batches == [[0], [2]]


def test_a_full_queue_refuses_and_says_when_to_come_back(batcher: Make, gate: Gate) -> None:
    from cir.serve.problems import Refused

    async def work() -> None:
        queue = batcher(waiting=3)
        queue.start()
        running = asyncio.create_task(queue.answers([0]))
        await at_gate(gate)
        waiting = asyncio.create_task(queue.answers([1, 2, 3]))
        await queued(queue, 3)
        assert queue.is_full
        with pytest.raises(Refused, match="3 queries are waiting") as caught:
            await queue.answers([4])
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
        gate.let(10)
        await asyncio.gather(running, waiting)
        await queue.stop()

    asyncio.run(work())
    assert [4] not in gate.batches


def test_who_waits_too_long_is_refused(batcher: Make, gate: Gate) -> None:
    from cir.serve.problems import Refused

    async def work() -> None:
        queue = batcher(patience=0.01)
        queue.start()
        with pytest.raises(Refused, match="no answer within") as caught:
            await queue.answers([0])
        assert caught.value.status == 503
        gate.let()
        await queue.stop()

    asyncio.run(work())


def test_an_error_is_that_of_its_own_query(batcher: Make, gate: Gate) -> None:
    async def work() -> list[Any]:
        queue = batcher()
        queue.start()
        gate.let(10)
        found = await queue.answers([1, -2, 3])
        await queue.stop()
        return found

    one, two, three = asyncio.run(work())
    assert (one, three) == ("answer 1", "answer 3")
    assert isinstance(two, ValueError)


def test_stopping_ends_the_batch_that_runs_and_refuses_the_others(batcher: Make, gate: Gate) -> None:
    from cir.serve.problems import Refused

    async def work() -> None:
        queue = batcher()
        queue.start()
        running = asyncio.create_task(queue.answers([0]))
        await at_gate(gate)
        waiting = asyncio.create_task(queue.answers([1]))
        await queued(queue, 1)
        stopping = asyncio.create_task(queue.stop())
        await asyncio.sleep(0)
        gate.let()
        await stopping
        assert await running == ["answer 0"]
        (refused,) = await waiting
        assert isinstance(refused, Refused)
        with pytest.raises(Refused, match="stopping"):
            await queue.answers([2])

    asyncio.run(work())


class Slow:
    """Holds the server's engine at a batch until it is let go."""

    def __init__(self, api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        whole = api.service.batcher._answer

        def answer(jobs: list[Any]) -> Any:
            self.sizes.append(len(jobs))
            self.entered.set()
            assert self.go.wait(30)
            return whole(jobs)

        monkeypatch.setattr(api.service.batcher, "_answer", answer)


def wait_for(api: Served, waiting: int) -> None:
    async def until() -> None:
        while len(api.service.batcher) != waiting:
            await asyncio.sleep(0)

    api.run(until())


def test_requests_that_come_together_are_answered_together(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(api, monkeypatch)
    alone = api.begin("POST", "/search", json={"text": "first"})
    assert slow.entered.wait(30)
    others = [api.begin("POST", "/search", json={"text": f"text {number}", "k": 3}) for number in range(8)]
    wait_for(api, 8)
    slow.go.set()
    assert alone.result(30).status_code == 200
    found = [each.result(30).json() for each in others]
    assert slow.sizes == [1, 8]
    assert [answer["query"]["text"] for answer in found] == [f"text {number}" for number in range(8)]
    assert [answer["hits"] for answer in found] == [api.search(text=f"text {n}", k=3)["hits"] for n in range(8)]


def test_a_request_whose_client_has_gone_is_not_computed(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(api, monkeypatch)
    alone = api.begin("POST", "/search", json={"text": "first"})
    assert slow.entered.wait(30)
    leaving = api.begin("POST", "/search", json={"text": "leaving"})
    wait_for(api, 1)
    leaving.cancel()
    wait_for(api, 0)
    slow.go.set()
    assert alone.result(30).status_code == 200
    api.search(text="another")
    assert slow.sizes == [1, 1]


def test_too_many_waiting_queries_are_429(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    api = serve(waiting=2)
    slow = Slow(api, monkeypatch)
    running = [api.begin("POST", "/search", json={"text": "first"})]
    assert slow.entered.wait(30)
    running += [api.begin("POST", "/search", json={"text": text}) for text in ("second", "third")]
    wait_for(api, 2)
    refused = api.request("POST", "/search", json={"text": "fourth"})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert api.request("GET", "/ready").status_code == 503
    assert api.request("GET", "/health").status_code == 200
    slow.go.set()
    assert [each.result(30).status_code for each in running] == [200, 200, 200]
    assert api.request("GET", "/ready").json() == {"status": "ready", "generation": 1}
