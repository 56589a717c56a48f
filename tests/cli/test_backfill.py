"""`cir backfill`: images of older models encoded again, in parts, watched by the judged queries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Rows
from cir.indexer.reading.gallery import Gallery
from cir.replacement.guard import RegressionGuard
from cir.testing import commands
from cir.testing.commands import Run

mistake = partial(commands.mistake, alone=False)
Write = Callable[..., Path]


@pytest.fixture
def dirs(tiny_model: Path, other_model: Path) -> list[object]:
    return ["--model-dir", tiny_model.parent, "--model-dir", other_model.parent]


@pytest.fixture
def replaced(cli: Run, index: Path, other_model: Path, questions_for: Write, dirs: list[object]) -> Path:
    """An index of the tiny model that the other one serves, with the questions that it was judged by."""
    assert cli("questions", index, "--from", questions_for(other_model)).code == 0
    nothing = cli("backfill", index, *dirs)
    assert (nothing.code, nothing.out) == (0, f"{index}: 0 images encoded again, 0 of older models left\n")
    applied = cli("replace-model", index, other_model, "--accept-noninferior", "100", "--apply", *dirs)
    assert applied.code == 0, applied.out
    return index


@pytest.mark.slow
def test_a_backfill_ends_where_a_new_index_begins(
    cli: Run,
    replaced: Path,
    other_model: Path,
    coloured: Path,
    dirs: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two random models have many flips, and the last digit of a fit decides how many.
    monkeypatch.setattr("cir.replacement.guard.MAX_NEGATIVE_FLIP_RATE", 1.0)
    words = ["backfill", replaced, "--accept-noninferior", "100", *dirs]
    query = ["-i", "007.png", "-t", "red", "--json", *dirs]
    assert cli("query", replaced, *query).code == 0
    some = cli(*words, "--count", "100", "--part", "40", "--json").json
    assert (some["done"], some["left"], some["skipped"], some["stopped"]) == (100, 160, [], "")
    assert set(some["questions"]) == {"before", "31 %"}
    rest = cli(*words, "--budget", "10m")
    assert rest.code == 0, rest.err
    assert "160 images encoded again, 0 of older models left" in rest.out
    assert "judged queries, 100 %: R@1 " in rest.out
    assert cli("verify", replaced).code == 0
    fresh = tmp_path / "fresh.index"
    assert cli("build-index", coloured, "-o", fresh, "--model", other_model, "--no-tokens").code == 0
    hits, expected = (cli("query", index, *query).json["hits"] for index in (replaced, fresh))
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in expected]


@pytest.mark.slow
def test_mistakes(cli: Run, index: Path, dirs: list[object]) -> None:
    for budget in ("soon", "-5m", "nans", "0s", "5"):
        mistake(cli("backfill", index, f"--budget={budget}", *dirs), "90s, 30m or 2h")
    mistake(cli("backfill", index, "--accept-noninferior", "nan", *dirs), "between 0 and 100")
    mistake(cli("backfill", index, "--count", "0", *dirs), "--count")


@pytest.mark.slow
def test_a_backfill_that_lowers_recall_stops_and_stays_stopped(
    cli: Run, replaced: Path, dirs: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[str] = []

    def evaluate(self: RegressionGuard, gallery: Gallery, when: str) -> Rows:
        """Every query is answered before, and half of them later."""
        evaluated.append(when)
        return np.arange(len(self._queries)) % 2 if when != "before" else np.ones(len(self._queries), np.int64)

    monkeypatch.setattr(RegressionGuard, "_evaluate", evaluate)
    words = ["backfill", replaced, "--count", "70", "--part", "35", *dirs]
    stopped = cli(*words)
    assert stopped.code == 1
    # 113 queries: those that the mapping was not fitted on
    assert "cir: stopped: R@1 of 113 judged queries has dropped by at least" in stopped.err
    assert "cir rollback" in stopped.err
    assert evaluated == ["before", "27 %"]
    again = cli(*words)
    assert again.code == 1
    assert "0 images encoded again, 190 of older models left" in again.out
    assert cli("rollback", replaced, "--to", "2").code == 0
    assert cli(*words).code == 1
    assert evaluated == ["before", "27 %", "27 %", "27 %"]
    flipped = cli(*words, "--accept-noninferior", "60", "--json")
    assert flipped.code == 1
    assert "% negative flips: answered within 10 before the backfill, and no longer" in flipped.json["stopped"]


@pytest.mark.slow
def test_a_backfill_without_photos_counts_them(
    cli: Run, own_index: tuple[Path, Path], other_model: Path, questions_for: Write, dirs: list[object]
) -> None:
    own, index = own_index
    words = ["--questions", questions_for(other_model), "--accept-noninferior", "100", "--apply"]
    assert cli("replace-model", index, other_model, *words, *dirs).code == 0
    for file in own.iterdir():
        file.unlink()
    done = cli("backfill", index, *dirs)
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    assert "0 images encoded again, 260 of older models left" in done.out
    assert "260 images are skipped and stay as they are" in done.out
    assert len(cli("backfill", index, "--json", *dirs).json["skipped"]) == 260
