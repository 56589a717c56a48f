"""Object stores, such as S3: the one place that knows `obstore`, which is imported when a URL is opened.

A place is written `s3://bucket/prefix`. Who may read it and where its server is come from the usual variables:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, and AWS_ENDPOINT_URL for another server than
Amazon's. Plain http is allowed to this machine itself; to others with AWS_ALLOW_HTTP=true.

Nothing waits without end. A request ends after CIR_STORE_TIMEOUT seconds (default 60). One that failed for a reason
that may pass is sent again until twice that time is over; then a `StoreError` says in one line what happened.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from cir.errors import DataError, MissingDependencyError, StoreConflictError, StoreError, UsageError
from cir.places import TIMEOUT, endpoint, timeout, url_of

if TYPE_CHECKING:
    from typing import Literal

    from obstore.store import S3Store
    from typing_extensions import Buffer

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
PART = 8 << 20  # bytes of one request; each must arrive within the timeout
_PARTS = 9000  # of one upload; S3 takes 10,000
_AT_ONCE = 4  # requests for parts of one file
_process = 0  # the one that has used obstore: its threads are there, and in a fork it would wait without end


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says about an object.

    Attributes:
        key: its name below the URL that was opened.
        bytes: its size.
        version: changes with its content (the ETag).
        modified: when it was written, in seconds since 1970 by the store's clock.
    """

    key: str
    bytes: int
    version: str
    modified: float


def open_store(place: str | os.PathLike[str]) -> Store:
    """The objects below a URL; nothing is asked of the server yet.

    Raises:
        UsageError: not a URL of S3, a server that would be spoken to in plain http, or a timeout that is none.
        MissingDependencyError: `obstore` is not installed.
    """
    url = url_of(place)
    server = endpoint()
    given = [name for name in _KEYS if os.environ.get(name)]
    if len(given) == 1:
        (lacking,) = set(_KEYS) - set(given)
        raise UsageError(f"{lacking} is not set, and {given[0]} is; set both")
    return Store(url, server, _client(url, server, timeout()))


class Store:
    """The objects below a URL, by their keys. Safe to share between threads; a forked process cannot use it.

    Every method raises StoreError in one line: the server cannot be reached, refuses, or is too slow.

    Attributes:
        url: where it is, in the spelling of `url_of`.
        endpoint: address of the server; "" for Amazon's own.
    """

    def __init__(self, url: str, endpoint: str, client: S3Store) -> None:
        """Use `open_store`."""
        self.url, self.endpoint, self._client = url, endpoint, client

    def __str__(self) -> str:
        return self.url

    def info(self, key: str) -> ObjectInfo | None:
        """What there is under a key; None for nothing."""
        import obstore

        try:
            with self._asking(key):
                return _info(obstore.head(self._client, key))
        except FileNotFoundError:
            return None

    def get(self, key: str, limit: int) -> tuple[bytes, str] | None:
        """An object of at most `limit` bytes and its version; None for nothing. Raises DataError for a larger one."""
        import obstore

        try:
            with self._asking(key):
                answer = obstore.get(self._client, key)
                if answer.meta["size"] > limit:
                    raise DataError(f"{self._name(key)}: larger than {limit / 1e6:,.0f} MB")
                return bytes(answer.bytes()), answer.meta["e_tag"] or ""
        except FileNotFoundError:
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object; fewer where it ends before. Raises FileNotFoundError for none of this key."""
        import obstore

        with self._asking(key):
            return bytes(obstore.get_range(self._client, key, start=start, length=length)) if length else b""

    def download(self, key: str, path: Path) -> int:
        """Write an object into a new file, by several requests at once; returns its size.

        Nothing says that the bytes are right: the caller compares a digest.

        Raises:
            FileNotFoundError: there is none of this key.
            OSError: the file cannot be written.
        """
        info = self.info(key)
        if info is None:
            raise FileNotFoundError(self._name(key))
        with path.open("wb") as file, ThreadPoolExecutor(_AT_ONCE) as pool:
            os.truncate(file.fileno(), info.bytes)

            def fetch(start: int) -> None:
                data = self.get_range(key, start, min(PART, info.bytes - start))
                os.pwrite(file.fileno(), data, start)

            try:
                list(pool.map(fetch, range(0, info.bytes, PART)))
            finally:
                pool.shutdown(cancel_futures=True)
        return info.bytes

    def sha256(self, key: str) -> str | None:
        """The digest of an object, as hex, for which all of it is read; None for nothing."""
        info, digest = self.info(key), hashlib.sha256()
        if info is None:
            return None
        for start in range(0, info.bytes, PART):
            digest.update(self.get_range(key, start, min(PART, info.bytes - start)))
        return digest.hexdigest()

    def put(self, key: str, data: bytes) -> str:
        """Write a small object, whatever is there; returns its version."""
        return self._put(key, data, "overwrite")

    def put_if(self, key: str, data: bytes, version: str | None) -> str:
        """Write a small object only if the one there has this version, or, for None, if there is none.

        Returns:
            its new version.

        Raises:
            StoreConflictError: somebody else has written it meanwhile. Where an answer was lost on its way, it may have
                been this call: the caller reads the object and compares.
        """
        return self._put(key, data, "create" if version is None else {"e_tag": version})

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size. A reader sees all of it or nothing. Raises OSError if it cannot be read."""
        import obstore

        size = path.stat().st_size
        part = max(PART, -(-size // _PARTS))
        with path.open("rb") as file, self._asking(key):
            obstore.put(self._client, key, file, chunk_size=part, max_concurrency=_AT_ONCE)

    def listed(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix, which ends where a slash follows; by ascending key."""
        import obstore

        with self._asking(prefix):
            for piece in obstore.list(self._client, prefix or None, chunk_size=1000):
                yield from map(_info, piece)

    def delete(self, keys: list[str]) -> None:
        """Remove objects; those that are not there are no error."""
        import obstore

        if keys:
            with self._asking(keys[0]):
                obstore.delete(self._client, keys)

    def reader(self, info: ObjectInfo, buffer: int) -> BinaryIO:
        """An object as a file that can be sought, and is read by ranges of `buffer` bytes or more."""
        return cast(BinaryIO, io.BufferedReader(_Ranges(self, info), buffer))

    def _put(self, key: str, data: Buffer, mode: Literal["overwrite", "create"] | dict[str, str]) -> str:
        import obstore

        with self._asking(key, writing=True):
            return obstore.put(self._client, key, data, mode=mode, use_multipart=False)["e_tag"] or ""  # type: ignore[arg-type]

    def _name(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    @contextmanager
    def _asking(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turn the errors of obstore into ours; FileNotFoundError, of a missing object, stays one while reading."""
        from obstore import exceptions

        name, where = self._name(key), f" at {self.endpoint}" if self.endpoint else ""
        no_bucket = StoreError(f"{name}: there is no bucket {self.url.split('/')[2]}{where}; make it, or check the URL")
        global _process
        _process = _process or os.getpid()
        if os.getpid() != _process:
            raise StoreError(f"{name}: a process that was forked cannot use the store; start it by spawn")
        try:
            yield
        except (StoreError, DataError):
            raise
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise StoreConflictError(
                f"{name} was written by somebody else meanwhile; run the same command again"
            ) from None
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or writing:
                raise no_bucket from None
            raise FileNotFoundError(name) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StoreError(
                f"{name}: the store refuses access ({_reason(error)}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
                "and what they allow"
            ) from None
        except exceptions.BaseError as error:
            if "NoSuchBucket" in str(error):
                raise no_bucket from None
            if "invalid path" in str(error):
                raise StoreError(
                    f"{name}: an object there has a name that cannot be used ({_reason(error)}); rename it, or give a "
                    "place without it"
                ) from None
            missing = "" if _KEYS[0] in os.environ else f"set {' and '.join(_KEYS)}, unless this machine has a role; "
            raise StoreError(
                f"{name}: the store{where} cannot be used ({_reason(error)}); {missing}check AWS_ENDPOINT_URL and the "
                "network, then run the same command again"
            ) from None
        except ValueError as error:  # a key that obstore cannot spell
            raise StoreError(f"{name}: no name that can be used in a store ({_reason(error)})") from None


class _Ranges(io.RawIOBase):
    """An object as a file: each read is one request."""

    def __init__(self, store: Store, info: ObjectInfo) -> None:
        super().__init__()
        self.store, self.info, self.place = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.info.bytes}[whence])
        return self.place

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.info.bytes - self.place))
        data = self.store.get_range(self.info.key, self.place, wanted)
        view[: len(data)] = data
        self.place += len(data)
        return len(data)


def _info(meta: object) -> ObjectInfo:
    values = cast("dict[str, object]", meta)
    modified = values["last_modified"].timestamp()  # type: ignore[attr-defined]
    return ObjectInfo(str(values["path"]), int(str(values["size"])), str(values["e_tag"] or ""), modified)


@lru_cache(maxsize=16)
def _client(url: str, endpoint: str, seconds: float) -> S3Store:
    """The client of a place."""
    try:
        from obstore.store import S3Store
    except ImportError:
        raise MissingDependencyError(f"{url} needs obstore; install the extra: pip install 'cir-engine[s3]'") from None
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={"endpoint": endpoint} if endpoint else None,
        client_options={
            "timeout": timedelta(seconds=seconds),
            "connect_timeout": timedelta(seconds=min(seconds, 5.0)),
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={
            "max_retries": 8,
            "retry_timeout": timedelta(seconds=2 * seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=min(seconds / 4, 5.0)),
                "base": 2,
            },
        },
    )


def _reason(error: Exception) -> str:
    """What went wrong, from an error whose text has a page."""
    text = str(error)
    code, message = re.search(r"<Code>([^<]+)", text), re.search(r"<Message>([^<]+)", text)
    if code:
        return f"{code[1]}: {message[1]}" if message else code[1]
    line = text.partition("\n")[0]
    status = re.search(r"status code: (\d+ [\w ]+)", line)
    if status:
        return status[1].strip()
    if "kind: Timeout" in text:
        return f"no answer in time; {TIMEOUT} is how many seconds a request may take"
    cause = re.search(r'Os \{.*?message: "([^"]+)"', text, re.DOTALL)
    return (cause[1] if cause else line.rpartition("HTTP error: ")[2].strip(" :"))[:200]
