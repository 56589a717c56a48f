"""A client of `cir serve`, with the types of the library and nothing but the standard library beneath.

    with Client("http://127.0.0.1:8000") as client:
        result = client.search(cir.Query("shirts/7.jpg", "in red"))

Errors are those that `cir.open_index` would raise, with the same words; a server that cannot be reached, is busy or
refuses its client is a `ServerError`.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from cir import errors
from cir.errors import CirError, MissingImageError, ServerError, UsageError
from cir.files import parse_json
from cir.given import instance, items, printable, string
from cir.images import ImageFile, file_at
from cir.types import Hit, Query, SearchResult

_API = "/api/v1"
_BATCH = 64  # queries of one request
_BUSY = (429, 503)
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
Reply = dict[str, Any]


class Client:
    """A server that runs `cir serve`. May be used by several threads.

    Args:
        url: where it is, such as "http://127.0.0.1:8000".
        token: what it wants to be shown.
        timeout: seconds that a request may take.
        patience: seconds to wait, in all, for a server that is busy before a request is given up.

    Raises:
        UsageError: no such URL.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0, patience: float = 30.0) -> None:
        try:
            parts = urlsplit(string(url, "url"))
            port = parts.port
        except ValueError:
            raise UsageError(f"{printable(str(url))}: no URL; write http://127.0.0.1:8000") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{printable(url)}: no URL; write http://127.0.0.1:8000")
        self.url = url
        self._kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            self._kind = http.client.HTTPSConnection
        self._place, self._timeout = (parts.hostname, port), timeout
        self._path = parts.path.rstrip("/") + _API
        self._token, self._patience = token, patience
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept for the next request."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def search(self, query: Query, *, exact: bool = False, generation: int | None = None) -> SearchResult:
        """Answer one query; see `search_many`."""
        return self.search_many([query], exact=exact, generation=generation)[0]

    def search_many(
        self, queries: Query | Iterable[Query], *, exact: bool = False, generation: int | None = None
    ) -> list[SearchResult]:
        """Answer queries, as `Searcher.search_many` does; hits have no path.

        Args:
            queries: what to search for. A name is an id of the gallery if it has one of that name, else a file here.
            exact: compare with every image.
            generation: of the index; the live one if None.

        Raises:
            CirError: as `Searcher.search_many`, or ServerError.
        """
        advice = "write cir.Query(references, text)"
        given = [instance(query, Query, "a query", advice) for query in items(queries, "queries", Query)]
        results: list[SearchResult] = []
        for batch in _batches(given, _BATCH):
            bodies = [self._body(query, exact, generation) for query in batch]
            answers = self.request("POST", "/search/batch", {"queries": bodies})["answers"]
            for query, answer in zip(batch, answers, strict=True):
                if "problem" in answer:
                    raise _error(answer["problem"])
                results.append(_result(query, answer))
        return results

    def info(self) -> Reply:
        """What the index holds, and what may be asked."""
        return self.request("GET", "/info")

    def columns(self, values: int = 50) -> list[Reply]:
        """What its metadata columns hold; at most so many values of each are listed."""
        columns: list[Reply] = self.request("GET", f"/columns?{urlencode({'values': values})}")["columns"]
        return columns

    def random(self, count: int = 24, seed: int | None = None) -> list[str]:
        """Ids of some images; the same for the same seed."""
        parameters = {"n": count} | ({} if seed is None else {"seed": seed})
        return [image["id"] for image in self.request("GET", f"/random?{urlencode(parameters)}")["images"]]

    def image(self, image_id: str) -> bytes:
        """The photo of an image, as the gallery has it or as a JPEG. Raises MissingImageError."""
        return self._bytes("GET", f"/images/{_address(image_id)}")

    def thumbnail(self, image_id: str, size: int = 320) -> bytes:
        """A JPEG of an image, its longer side at most `size`. Raises MissingImageError."""
        return self._bytes("GET", f"/thumbnails/{_address(image_id)}?size={size}")

    def metadata(self, image_id: str) -> dict[str, str]:
        """Column -> value of an image. Raises MissingImageError."""
        return dict(self.request("GET", f"/metadata/{_address(image_id)}")["metadata"])

    def marks(self) -> Reply:
        """How many marks there are, and what they are good for."""
        return self.request("GET", "/marks")

    def mark(self, query: Query, image_id: str, right: bool | None, *, generations: Sequence[int] = ()) -> Reply:
        """Say whether an image answers a query of a text and at most one reference; None takes it back.

        Args:
            query: with an image of the gallery as its reference, or none.
            image_id: of the hit.
            right: whether it answers the query.
            generations: among whose hits it was shown; the live one if empty.
        """
        references = [self._reference(reference) for reference in query.references]
        body: Reply = {"references": references, "text": query.text, "image": image_id, "generations": [*generations]}
        if right is None:
            return self.request("DELETE", "/marks", body)
        return self.request("PUT", "/marks", body | {"right": right})

    def request(self, method: str, path: str, body: Any = None) -> Reply:
        """The JSON object that a path under /api/v1 answers.

        Raises:
            CirError: what the server says is wrong; ServerError.
        """
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        answer = self._bytes(method, path, data, headers)
        try:
            value = parse_json(answer)
        except ValueError as error:
            raise ServerError(f"{self.url}: no server of cir: {error}") from None
        return instance(value, dict, f"the answer of {self.url}", "is it a server of cir?")

    def _body(self, query: Query, exact: bool, generation: int | None) -> Reply:
        return {
            "references": [self._reference(reference) for reference in query.references],
            "text": query.text,
            "negatives": list(query.negatives),
            "k": query.k,
            "where": [str(condition) for condition in query.where],
            "exclude": sorted(query.exclude),
            "exact": exact,
            "generation": generation,
            "id": query.id,
        }

    def _reference(self, reference: Any) -> str | dict[str, str]:
        """A reference as the server takes it; pictures are sent to it first."""
        if isinstance(reference, str):
            try:
                file = file_at(reference)
            except MissingImageError:
                return reference
            with suppress(MissingImageError):  # an id wins over a file of the same name, as in the library
                self.request("GET", f"/metadata/{_address(reference)}")
                return reference
            return self._upload(file.read())
        if isinstance(reference, ImageFile):
            return self._upload(reference.read())
        if isinstance(reference, bytes):
            return self._upload(reference)
        buffer = io.BytesIO()
        plain = reference if reference.mode in ("RGB", "L", "RGBA", "LA") else reference.convert("RGB")
        plain.save(buffer, "PNG")
        return self._upload(buffer.getvalue())

    def _upload(self, data: bytes) -> dict[str, str]:
        boundary = hashlib.sha256(data).hexdigest()  # which no picture holds
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="picture"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = parse_json(self._bytes("POST", "/uploads", body, headers))
        return {"upload": answer["uploads"][0]["upload"]}

    def _bytes(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of a response. Raises the error that it describes."""
        shown = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        waited = 0.0
        while True:
            status, wait, data = self._once(method, self._path + path, body, {**shown, **(headers or {})})
            if status < 400:
                return data
            if status not in _BUSY or wait is None or waited + wait > self._patience:
                break
            time.sleep(wait)
            waited += wait
        try:
            problem = parse_json(data)
            assert isinstance(problem, dict)
        except (ValueError, AssertionError):
            problem = {}
        raise _error({"detail": f"{self.url}: HTTP status {status}", **problem})

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, float | None, bytes]:
        """Status, seconds after which to try again if it says so, and body.

        A connection that the server has closed meanwhile is made again.
        """
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            connection = kept or self._kind(*self._place, timeout=self._timeout)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if isinstance(error, _STALE) and kept is not None:
                    continue  # until one is new
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise ServerError(f"{self.url}: cannot be reached: {reason}; is `cir serve` running there?") from None
            with self._lock:
                self._idle.append(connection)
            return response.status, _seconds(response.headers.get("Retry-After")), data


def _address(image_id: str) -> str:
    return quote(image_id.encode("utf-8", "surrogateescape"), safe="")


def _result(query: Query, answer: Reply) -> SearchResult:
    hits = tuple(Hit(hit["rank"], hit["id"], hit["score"], None, hit["metadata"]) for hit in answer["hits"])
    return SearchResult(
        query,
        hits,
        answer["searched"],
        answer["model"],
        answer["seconds"],
        answer["confident"],
        answer["unsearched"],
        tuple(answer["unread"]),
        answer["damaged"],
        answer["coverage"],
    )


def _error(problem: Mapping[str, Any]) -> CirError:
    """The error that a problem document is about."""
    name = str(problem.get("type", "")).removeprefix("urn:cir:")
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, CirError)):
        kind = ServerError
    return kind(str(problem.get("detail", "the server says nothing")))


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() else None


def _batches(values: Sequence[Query], size: int) -> Iterator[list[Query]]:
    given = iter(values)
    while batch := list(islice(given, size)):
        yield batch
