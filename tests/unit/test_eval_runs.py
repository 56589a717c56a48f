"""TREC run files: round trips, order, and every malformed line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cir.errors import DataError, UsageError
from cir.eval.runs import Run, ordered, read_run, write_run
from cir.files import read_lines, write_text


def test_file_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.trec"
    write_run(path, {"q 1": [("a b%.jpg", 0.5), ("c", 0.25)], "q2": [("é", -1.0)], "q3": []}, tag="my run")
    assert path.read_text(encoding="utf-8") == (
        "q%201 Q0 a%20b%25.jpg 1 0.5 my%20run\nq%201 Q0 c 2 0.25 my%20run\nq2 Q0 é 1 -1.0 my%20run\n"
    )


def test_equal_scores_are_written_apart_by_the_smallest_step(tmp_path: Path) -> None:
    path = tmp_path / "run"
    # The third differs from the second as float64 only, and would lie above it once that is lowered.
    write_run(path, {"q": [("z", 0.5), ("a", 0.5), ("m", 0.5 - 1e-12), ("b", 0.25)]})
    columns = [line.split() for line in path.read_text().splitlines()]
    scores = [np.float32(column[4]) for column in columns]
    steps = [np.float32(0.5)]
    for _ in range(2):
        steps.append(np.nextafter(steps[-1], np.float32(0)))
    assert scores == [*steps, np.float32(0.25)]
    assert [column[2] for column in columns] == ["z", "a", "m", "b"]


ids = st.text(min_size=1, max_size=8)
awkward = st.sampled_from(
    [
        " ",
        "%",
        "%20",
        "a b",
        "a%20b",
        "\u00a0",
        "\u2028",
        "\x1c",
        "\x85",
        "\ufeff",
        "日本",
        "\n",
        "\r",
        "\ud800",
        "+",
        "#",
    ]
)
names = ids | awkward
scores = st.sampled_from([0.0, -0.0, 0.5, 0.5 - 1e-12, 1.0, -1.0]) | st.floats(-1, 1)
runs = st.dictionaries(
    names,
    st.dictionaries(names, scores, min_size=1, max_size=6).map(lambda hits: ordered(hits.items())),
    max_size=4,
)


@given(run=runs)
def test_round_trip_keeps_ids_and_order(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip"
    write_run(path, run)
    back = read_run(path)
    assert {q: [image for image, _ in hits] for q, hits in back.items()} == {
        q: [image for image, _ in hits] for q, hits in run.items()
    }
    for query, hits in back.items():
        values = [np.float32(score) for _, score in hits]
        assert all(a > b for a, b in pairwise(values))
        assert values == pytest.approx([score for _, score in run[query]], abs=1e-5)


def test_reading_orders_by_score_then_id_and_ignores_ranks(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("\ufeffq 0 b 1 0.5 x\nq Q0 c 2 0.9 x\n\n  \nq\tQ0\ta  3 5e-1 y\r\nr Q0 a 1 1 x", encoding="utf-8")
    assert read_run(path) == {"q": [("c", 0.9), ("a", 0.5), ("b", 0.5)], "r": [("a", 1.0)]}


def test_a_foreign_percent_sign_that_escapes_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("q Q0 50%off.jpg 1 1 x\n")
    assert read_run(path) == {"q": [("50%off.jpg", 1.0)]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q Q0 a 1 0.5", "5 columns instead of 6"),
        (b"q Q0 a b.jpg 1 0.5 x", "7 columns instead of 6"),
        (b"q Q0 b 1 high x", "'high' is not a finite number"),
        (b"q Q0 b 1 nan x", "'nan' is not a finite number"),
        (b"q Q0 b 1 -inf x", "'-inf' is not a finite number"),
        (b"q Q0 a 2 0.4 x", "query 'q' has image 'a' twice"),
        (b"q Q0 50%FF 2 0.4 x", "not percent-encoded UTF-8"),
        (b"q Q0 \xff 2 0.4 x", "not UTF-8 at byte 5"),
    ],
)
def test_malformed_lines_name_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes(b"q Q0 a 1 0.5 x\n\n" + line + b"\n")
    with pytest.raises(DataError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"q": [("a", 0.1), ("b", 0.2)]}, "query 'q': the score of 'b' rises to 0.2"),
        ({"q": [("a", float("nan"))]}, "'a' rises to nan"),
        ({"q": [("a", 1e39)]}, "not a finite float32"),
        ({"q": [("a", -3.4028235e38), ("b", -3.4028235e38)]}, "'b' is not a finite float32"),
        ({"": [("a", 1.0)]}, "empty id"),
        ({"q": [("", 1.0)]}, "empty id"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, run: Run, message: str) -> None:
    path = tmp_path / "run"
    path.write_text("old")
    with pytest.raises(UsageError, match=message):
        write_run(path, run)
    assert path.read_text() == "old"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: cannot be read \(No such file"):
        read_run(tmp_path / "absent")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cir.files.os.fsync", full)
    with pytest.raises(DataError, match=r"disk full while writing .*file"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_text(tmp_path / "file" / "run", "text")


def test_a_written_file_has_ordinary_rights_and_unix_line_ends(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "file", "a\nb\n")
    assert (tmp_path / "file").read_bytes() == b"a\nb\n"
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("a\u2028b\r\n\n\nc".encode())
    assert list(read_lines(path)) == [(f"{path}:1", "a\u2028b"), (f"{path}:4", "c")]
