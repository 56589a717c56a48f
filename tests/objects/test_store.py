"""`cir.objects` against a real server: what is written comes back, conditions hold, and errors are one line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cir.errors import CirError, DataError, MissingDependencyError, StoreConflictError, StoreError, UsageError
from cir.objects import PART, open_store
from cir.places import UrlPath, is_url, url_of
from cir.testing.store_server import SpoiltLine

Patience = Callable[[float], None]
BIG = 2 * PART + 12_345  # several parts


def one_line(error: pytest.ExceptionInfo[CirError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    for word in words:
        assert word in text, text


def test_what_is_written_comes_back(bucket: str, tmp_path: Path) -> None:
    store, data = open_store(f"{bucket}/below/"), os.urandom(BIG)
    (tmp_path / "sent").write_bytes(data)
    store.upload("a/big", tmp_path / "sent")
    assert store.download("a/big", tmp_path / "got") == BIG
    assert (tmp_path / "got").read_bytes() == data
    assert store.sha256("a/big") == hashlib.sha256(data).hexdigest()
    assert store.get_range("a/big", PART - 2, 4) == data[PART - 2 : PART + 2]
    info = store.info("a/big")
    assert info is not None
    assert (info.key, info.bytes) == ("a/big", BIG)
    with store.reader(info, 1000) as file:
        assert (file.seek(-10, os.SEEK_END), file.read()) == (BIG - 10, data[-10:])
        file.seek(5)
        assert file.read(3000) == data[5:3005]
    store.put("ü/1 +%.jpg", b"")
    assert [each.key for each in store.listed()] == ["a/big", "ü/1 +%.jpg"]
    assert [each.key for each in store.listed("ü")] == ["ü/1 +%.jpg"]
    assert [each.key for each in open_store(bucket).listed()] == ["below/a/big", "below/ü/1 +%.jpg"]
    store.delete(["a/big", "never was there"])
    assert store.info("a/big") is None
    assert store.get("a/big", 10) is None
    assert store.sha256("a/big") is None
    with pytest.raises(FileNotFoundError):
        store.download("a/big", tmp_path / "got")


def test_of_two_writers_one_loses(bucket: str) -> None:
    store = open_store(bucket)
    first = store.put_if("CURRENT", b"1", None)
    with pytest.raises(StoreConflictError) as error:
        store.put_if("CURRENT", b"2", None)
    one_line(error, "CURRENT", "somebody else")
    second = store.put_if("CURRENT", b"2", first)
    for stale in (first, '"none"'):
        with pytest.raises(StoreConflictError):
            store.put_if("CURRENT", b"3", stale)
    assert store.get("CURRENT", 10) == (b"2", second)
    assert store.put("CURRENT", b"4") != second


def test_mistakes_are_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = open_store("s3://no-such-bucket/x")
    for ask in (
        lambda: missing.get("a", 10),
        lambda: missing.put("a", b""),
        lambda: missing.put_if("a", b"", None),
        lambda: list(missing.listed()),
    ):
        with pytest.raises(StoreError) as error:
            ask()
        one_line(error, "there is no bucket no-such-bucket at http://127.0.0.1")
    store = open_store(bucket)
    store.put("a", b"12345")
    with pytest.raises(DataError, match="larger than"):
        store.get("a", 4)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:9")
    with pytest.raises(UsageError) as usage:
        open_store(bucket)
    one_line(usage, "unencrypted", "AWS_ALLOW_HTTP")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("CIR_STORE_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="CIR_STORE_TIMEOUT is 'soon'"):
        open_store(bucket)


@pytest.mark.parametrize("address", ["", "localhost:9", "ftp://x", "https://", "http://a b"])
def test_what_is_no_address(bucket: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(UsageError, match=r"AWS_ENDPOINT_URL is .*; write an address"):
        open_store(bucket)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_REGION", "no region")
    with pytest.raises(UsageError, match="AWS_REGION is 'no region'"):
        open_store(bucket)


def test_a_forked_process_does_not_wait_without_end(bucket: str) -> None:
    code = (
        "import os\nfrom cir.objects import open_store\n"
        f"store = open_store({bucket!r})\nstore.put('a', b'1')\n"
        "if os.fork() == 0:\n"
        "    try:\n        store.get('a', 10)\n"
        "    except Exception as error:\n        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == f"{bucket}/a: a process that was forked cannot use the store; start it by spawn\n"


def test_without_obstore_it_says_what_to_install(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cir-engine\[s3\]'"):
        open_store(f"{bucket}/never-opened-before")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://b/p", "s3://b/p"),
        ("s3://b//p/", "s3://b/p"),
        ("s3://b", "s3://b"),
        (Path("s3://b/p"), "s3://b/p"),
        (UrlPath("s3://b/p") / "x.jpg", "s3://b/p/x.jpg"),
    ],
)
def test_one_spelling_of_a_place(given: str | Path, url: str) -> None:
    assert is_url(given)
    assert url_of(given) == url
    assert str(UrlPath(given)) == os.fspath(UrlPath(given)) == url


@pytest.mark.parametrize("given", ["s3://", "s3:///", "gs://b/p", "s3://b/../c", "https://example.org/x"])
def test_what_is_no_place(given: str) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX"):
        url_of(given)


@pytest.mark.parametrize("given", ["my.index", "/s3/x", "./s3", "s3", "C:/x"])
def test_what_is_a_path(given: str) -> None:
    assert not is_url(given)


def test_a_line_that_is_cut_in_the_middle_of_a_write(
    line: SpoiltLine, bucket: str, tmp_path: Path, patience: Patience
) -> None:
    patient = open_store(bucket)
    patient.put("a", b"old")
    patience(1)
    store = open_store(bucket)
    (tmp_path / "sent").write_bytes(os.urandom(BIG))
    line.cut_after = line.sent + BIG // 2
    started = time.monotonic()
    with pytest.raises(StoreError) as error:
        store.upload("a", tmp_path / "sent")
    one_line(error, f"{bucket}/a", "AWS_ENDPOINT_URL", "run the same command again")
    assert time.monotonic() - started < 60
    line.mend()
    assert patient.get("a", 10) is not None
    patient.upload("a", tmp_path / "sent")
    assert patient.sha256("a") == hashlib.sha256((tmp_path / "sent").read_bytes()).hexdigest()


def test_a_line_that_is_slow_only_takes_longer(line: SpoiltLine, bucket: str, tmp_path: Path) -> None:
    store, data = open_store(bucket), os.urandom(400_000)
    line.delay, line.bytes_per_second = 0.002, 2_000_000
    (tmp_path / "sent").write_bytes(data)
    store.upload("a", tmp_path / "sent")
    store.download("a", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == data


def test_an_answer_that_never_comes_is_not_waited_for(line: SpoiltLine, bucket: str, patience: Patience) -> None:
    patient = open_store(bucket)
    version = patient.put("a", b"old")
    patience(1)
    store = open_store(bucket)
    line.deaf = True
    for ask in (lambda: store.get("a", 10), lambda: store.put_if("a", b"new", version)):
        started = time.monotonic()
        with pytest.raises(StoreError) as error:
            ask()
        one_line(error, "no answer in time", "CIR_STORE_TIMEOUT")
        assert time.monotonic() - started < 60
    line.mend()
    there = patient.get("a", 10)
    assert there is not None
    assert there[0] == b"new"  # the write arrived, and its answer was lost


def test_credentials_that_are_missing_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError) as caught:
        open_store(bucket)
    one_line(caught, "AWS_SECRET_ACCESS_KEY is not set, and AWS_ACCESS_KEY_ID is; set both")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("CIR_STORE_TIMEOUT", "1")
    with pytest.raises(StoreError) as failed:
        open_store(bucket).info("x")
    one_line(failed, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def test_a_scheme_may_be_in_capitals() -> None:
    assert is_url("S3://shop/x")
    assert url_of("S3://shop/x/") == "s3://shop/x"
