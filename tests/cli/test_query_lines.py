"""`cir query INDEX -`: JSON lines in, JSON lines out, in order, in batches, without waiting for further lines."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cir import build_index, load_model
from cir.cli.query_lines import BATCH, answer_lines, read_batches
from cir.errors import DataError
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.search import Searcher
from cir.testing.commands import Outcome, Run, mistake
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.types import Query, SearchResult

Ask = Callable[..., Outcome]
Line = tuple[object, str]  # a line, and what is wrong with it
HANGS = 120  # seconds after which a process that does not answer is killed


@pytest.fixture
def ask(cli: Run, wardrobe_index: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs `cir query INDEX -` with these bytes on stdin."""

    def run(given: bytes, *words: object) -> Outcome:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        return cli("query", wardrobe_index, "-", *words)

    return run


def encoded(lines: Iterable[object]) -> bytes:
    """Lines of JSON; strings are written as they are."""
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()


def answers(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_lines_are_answered_in_kind(ask: Ask) -> None:
    lines = [
        {"id": "a", "references": ["images/00001.jpg"], "text": "in red", "k": 2},
        {"id": 7, "text": "blue", "where": {"pattern": "plain"}},
        {"text": ""},
        {"text": "red", "colour": "red"},
        "",
        "not json",
    ]
    done = ask(encoded(lines))
    first, second, *bad = answers(done)
    assert done.code == 2
    assert (first["id"], len(first["hits"])) == ("a", 2)
    assert second["id"] == 7
    assert "line 3: an empty query" in bad[0]["error"]
    assert "line 4: unknown key colour" in bad[1]["error"]
    assert "line 6: not JSON" in bad[2]["error"]
    assert done.err == "cir: 3 lines could not be answered; their answers say why\n"


def test_conditions_as_an_object_and_as_a_list(ask: Ask) -> None:
    wheres: list[object] = [
        {"pattern": "plain"},
        ["pattern=plain"],
        ["pattern!=plain"],
        ["pattern!=plain", "pattern!=striped"],
        "pattern not in plain, striped",
        {"pattern": {"not in": ["plain", "striped"]}},
        [{"pattern": {"!=": "plain"}}, ["pattern", "striped", "!="]],
    ]
    given = answers(ask(encoded({"text": "red", "k": 40, "where": where} for where in wheres)))
    patterns = [{hit["metadata"]["pattern"] for hit in answer["hits"]} for answer in given]
    assert patterns[0] == patterns[1] == {"plain"}
    assert "striped" in patterns[2]
    assert patterns[3] == patterns[2] - {"striped"}
    assert patterns[3] == patterns[4] == patterns[5] == patterns[6]
    assert given[4]["where"] == ["pattern not in plain, striped"]
    assert given[0]["searched"] + given[2]["searched"] == 40


def test_exit_codes(ask: Ask) -> None:
    for text, code in (('{"text": "red", "where": {"pattern": "none"}}', 1), ("", 1), ('{"text": "red"}', 0)):
        assert ask(text.encode()).code == code


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "not a query"),
        ('{"text": 5}', '"text" is a string'),
        ('{"text": "a", "k": "many"}', '"k" is a whole number'),
        ('{"text": "a", "where": {"x": null}}', "a string or a number"),
        ('{"text": "caf\xe9"}', "not JSON"),
        (r'{"text": "\ud800"}', "not readable as text"),
        ('{"text": "a", "k": 0}', "k is 0"),
        ('{"text": "a", "k": NaN}', "not JSON: NaN is not a JSON number"),
        ('{"text": "a", "k": ' + "1" * 5000 + "}", "not JSON"),
        ("[" * 200_000, "not JSON: nested too deeply"),
        ('{"id": ' + "[" * 500 + "]" * 500 + ', "text": "a"}', "not JSON: nested too deeply"),  # read, but not written
        ('{"text": "a", "id": 1e999}', "not JSON: a number as large as 1e999"),
        ('{"text": "a", "k": ' + "9" * 90 + "}", '"k" is at most 1,000,000'),
        (r'{"references": ["\ud800"]}', "neither an image file nor an id"),
        (r'{"references": ["a\u0000b"]}', "neither an image file nor an id"),
        ('{"references": ["/dev/zero"]}', "/dev/zero: "),
        ('{"negatives": [[]], "text": "a"}', '"negatives" is a list of strings'),
        ('{"references": [5]}', "list of strings"),
        ('{"text": "a", "where": "x"}', "'x' is not a condition"),
        ('{"text": "a", "where": 5}', "where is an int"),
        ('{"text": "a", "where": {"x": true}}', "the value is a bool"),
        ('{"text": "a", "where": {"pattern": {"<": 5}}}', "'pattern' holds texts such as "),
        ('{"text": "a", "where": ["x"]}', "'x' is not a condition"),
        ('{"text": "a", "where": ["pattern=plain", 5]}', "5 is not a condition"),
    ],
)
def test_bad_lines(ask: Ask, line: str, message: str) -> None:
    done = ask(line.encode("latin-1"))
    assert done.code == 2
    assert message in json.loads(done.out)["error"]


def test_bad_lines_between_good_ones(ask: Ask, tmp_path: Path) -> None:
    """One batch: each line is answered in its place, with its id; good lines as if they were alone."""
    (tmp_path / "broken.jpg").write_text("not a picture")
    good: list[dict[str, object]] = [
        {"id": "first", "references": ["images/00001.jpg"], "text": "in red", "k": 3},
        {"id": ["a", "list"], "text": "blue", "where": {"pattern": "plain"}, "k": 3},
        {"id": None, "references": ["images/00004.jpg"], "k": 4},
        {"id": 4.5, "text": "long sleeves", "negatives": ["red"], "k": 3},
        {"text": "red", "k": 3},
    ]
    bad: list[Line] = [
        ({"id": "broken", "references": [str(tmp_path / "broken.jpg")], "text": "red"}, "broken.jpg: not an image"),
        ({"id": "column", "text": "red", "where": {"price": 5}}, "no metadata column 'price'"),
        ("{", "not JSON"),
        ({"id": "gone", "references": ["gone.jpg"], "text": "red"}, "gone.jpg: neither an image file nor an id"),
        ({"id": "k", "text": "red", "k": -1}, "k is -1"),
        ({"id": "empty"}, "an empty query"),
    ]
    lines: list[Line] = []
    for number, bad_line in enumerate(bad):
        lines += [*((query, "") for query in good[number : number + 1]), bad_line]
    done = ask(encoded(line for line, _ in lines))
    assert done.code == 2
    assert done.err == "cir: 6 lines could not be answered; their answers say why\n"
    for number, ((line, message), answer) in enumerate(zip(lines, answers(done), strict=True), start=1):
        assert answer["id"] == (line.get("id") if isinstance(line, dict) else None)
        if message:
            assert answer["error"].startswith(f"line {number}: ")
            assert message in answer["error"]
            assert set(answer) == {"id", "error"}
        else:
            (alone,) = answers(ask(encoded([line])))
            assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in alone["hits"]]


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte without a line break is one bad line, and not in memory."""
    monkeypatch.setattr("cir.cli.query_lines.LONGEST_LINE", 100_000)
    given = b'{"text": "a"}\n{"text": "' + b"x" * 1_000_000 + b'"}\n{"text": "b"}\n' + b"y" * 1_000_000
    tracemalloc.start()
    lines = [line for batch in read_batches(io.BytesIO(given), 10) for line in batch]
    kept = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept < 800_000
    assert [line.query.text if line.query else None for line in lines] == ["a", None, "b", None]
    assert [line.number for line in lines] == [1, 2, 3, 4]
    assert "longer than" in str(lines[1].error)


def test_a_bug_that_one_line_meets_takes_no_answer_from_the_others(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    search_many = Searcher.search_many

    def broken(self: Searcher, queries: Sequence[Query], **options: Any) -> list[SearchResult]:
        if any(query.text == "b" for query in queries):
            raise ZeroDivisionError("of ours")
        return search_many(self, queries, **options)

    monkeypatch.setattr(Searcher, "search_many", broken)
    done = ask(encoded({"id": text, "text": text} for text in "abcde"))
    assert done.code == 70
    assert [answer["id"] for answer in answers(done) if "hits" in answer] == ["a", "c", "d", "e"]
    assert answers(done)[1]["error"] == "line 2: a bug in cir: ZeroDivisionError: of ours"
    assert "this is a bug in cir: ZeroDivisionError: of ours; the traceback is in" in done.err


def test_a_stream_that_cannot_be_read_is_one_error() -> None:
    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(DataError, match="standard input cannot be read: Input/output error"):
        list(read_batches(Broken(), 10))


ODD = [None, True, -1, 3.5, 10**50, "", "red", "\ud800", "\0", "0001.png", "/dev/zero", [], {}, [[]], ["\ud800"]]
ODD += [["0001.png"], ["x=y"], ["\0=\ud800"], {"a": "b"}, {"\0": "b"}, {"": ""}, ["."], "a/" * 3000]
DAMAGE = [b"[", b"}", b'"', b"\\u", b"1e999", b"NaN", b"\xff", b"\0"]
FIELDS = ["references", "text", "negatives", "k", "where", "id", "\ud800", "exclude"]


def test_whatever_lines_hold_each_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, lines = random.Random(0), []
    for _ in range(600):
        line = bytearray(json.dumps({key: rng.choice(ODD) for key in rng.sample(FIELDS, rng.randint(0, 3))}).encode())
        for _ in range(rng.choice([0, 0, 0, 1, 3])):
            place = rng.randrange(len(line))
            line[place : place + rng.randrange(3)] = rng.choice(
                [b"[", b"}", b'"', b"\\u", b"1e999", b"NaN", b"\xff", b"\0"]
            )
        lines.append(bytes(line))
    lines.append(b'{"text": "red"}')
    encoder = FakeEncoder()
    build(folder_of(tmp_path / "photos", 4), tmp_path / "x.index", encoder)
    searcher = Searcher(Gallery.open(tmp_path / "x.index"), lambda card: encoder)
    assert answer_lines(searcher, io.BytesIO(b"\n".join(lines)), k=3, exact=False, recall=0.99) == 2
    given = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(given) == len(lines)
    assert sum("hits" in answer for answer in given) > 5
    assert len(given[-1]["hits"]) == 3


def test_lines_are_searched_in_batches(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    search_many = Searcher.search_many

    def counted(self: Searcher, queries: Sequence[Query], **options: Any) -> list[SearchResult]:
        sizes.append(len(queries))
        return search_many(self, queries, **options)

    monkeypatch.setattr(Searcher, "search_many", counted)
    done = ask(encoded({"id": n, "text": ("red", "blue")[n % 2], "k": 1} for n in range(BATCH + 4)))
    assert (done.code, sizes) == (0, [BATCH, 3, 1])  # the last line lacks its newline, so that more may follow
    assert [answer["id"] for answer in answers(done)] == list(range(BATCH + 4))


def test_reading_joins_lines_that_arrive_in_pieces() -> None:
    class Pieces(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(7)

    lines = [{"id": n, "text": "r\u00f6d" * n} for n in range(1, 6)]
    batches = list(read_batches(Pieces(encoded(json.dumps(line, ensure_ascii=False) for line in lines)), 10))
    read = [line for batch in batches for line in batch]
    assert [line.query.text for line in read if line.query] == [line["text"] for line in lines]
    assert [line.number for line in read] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_slow_writer_gets_each_answer_before_it_writes_the_next_line(wardrobe_index: Path) -> None:
    command = [sys.executable, "-c", "from cir.cli import main; main()", "query", str(wardrobe_index), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(HANGS, process.kill)
        watch.start()
        for number, line in enumerate(('{"id": 0, "text": "red"}', "bad", '{"id": 2, "text": "blue"}')):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["id"] == (None if number == 1 else number)
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait() == 2
        watch.cancel()


def test_a_missing_model_is_one_error(
    cli: Run, folder: Path, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, index = make_model(tmp_path / "models" / "lost-1", seed=5), tmp_path / "my.index"
    build_index(scan([folder])[:3], index, load_model(model))
    shutil.rmtree(model)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "red"}\n{"text": "blue"}\n')))
    mistake(cli("query", index, "-"), "lost-1", "is not here")
