"""From use to evidence: `cir query --judge`, `cir questions --from-marks`, `cir replace-model --judge-pool`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from cir import Query, load_model, open_index
from cir.data.judged_query import JudgedQuery
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.marks import Mark, append_marks, read_marks
from cir.models.folder import read_card
from cir.replacement.collect import SampleCollector
from cir.replacement.marked import marked
from cir.replacement.pool import pools
from cir.replacement.questions import stored
from cir.replacement.study import older_spaces
from cir.testing import commands
from cir.testing.commands import Run

mistake = partial(commands.mistake, alone=False)
Answer = Callable[[JudgedQuery, str], bool]
CAPTIONS = ("red", "blue with long sleeves", "long", "with red sleeves")
QUERIES = 220


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts lines on standard input."""
    return lambda lines: monkeypatch.setattr("sys.stdin", io.StringIO(lines))


def test_hits_are_marked_by_lines_on_standard_input(
    cli: Run, index: Path, tiny_model: Path, answers: Callable[[str], None], tmp_path: Path
) -> None:
    query = ["query", index, "-i", "007.png", "-t", " red ", "-k", "5", "--model-dir", tiny_model.parent]
    answers("y\nno\ns\n\nY\n")
    done = cli(*query, "--judge", "--sheet", tmp_path / "sheet.png")
    assert done.code == 0, done.err
    assert (tmp_path / "sheet.png").stat().st_size
    hits = [line.split()[2] for line in done.out.splitlines()]
    assert f"   1  {hits[0]}  right? [y]es" in done.err
    assert done.err.endswith(f"cir: 3 marks kept in {index}\n")
    kept = read_marks(IndexFolder(index))
    assert [(mark.image, mark.right) for mark in kept] == [(hits[0], True), (hits[1], False), (hits[4], True)]
    assert {(mark.reference, mark.caption, mark.models) for mark in kept} == {
        ("007.png", "red", (read_card(tiny_model).digest,))
    }
    answers("n\nq\ny\n")
    assert cli(*query, "--judge").err.endswith(f"cir: 1 marks kept in {index}\n")
    (judged,) = marked(Gallery.open(index)).queries
    assert judged.targets == {hits[4]}  # the later mark counts
    assert judged.wrong == {hits[0], hits[1]}
    answers("y\nmaybe\ny\n")
    mistake_after_one = cli(*query, "--judge")
    assert mistake_after_one.code == 2
    assert "line 2: 'maybe' is no answer; write y, n, s or q. The 1 marks before it are kept" in mistake_after_one.err
    assert len(read_marks(IndexFolder(index))) == 5
    assert cli("verify", index).code == 0


def test_a_reference_may_be_a_file_of_the_same_picture(
    cli: Run, index: Path, coloured: Path, tiny_model: Path, answers: Callable[[str], None]
) -> None:
    words = ["-t", "red", "--judge", "--model-dir", tiny_model.parent]
    answers("y\n")
    assert cli("query", index, "-i", coloured / "009.png", *words).code == 0
    answers("y\n")
    assert cli("query", index, *words).code == 0
    assert [mark.reference for mark in read_marks(IndexFolder(index))] == ["009.png", ""]


def test_marks_become_judged_questions(cli: Run, own_index: tuple[Path, Path], tiny_model: Path) -> None:
    own, index = own_index
    mistake(cli("questions", index, "--from-marks"), "no hit is marked as right (0 marks)", "--judge")
    gallery = Gallery.open(index)

    def line(caption: str, image: str, *, right: bool) -> Mark:
        digests = [gallery.image(name).digest.hex() for name in ("001.png", image)]
        return Mark(caption, image, digests[1], right, "001.png", digests[0], ("m",), "2026-11-26T08:00:00+00:00")

    marks = [line("red", "002.png", right=True), line("red", "003.png", right=False)]
    append_marks(gallery.folder, [*marks, line("blue", "004.png", right=False), line("red", "005.png", right=False)])
    done = cli("questions", index, "--from-marks")
    assert done.code == 0, done.err
    assert f"{index}: 1 judged queries" in done.out
    assert "  4 marks on hits of 2 queries, 1 with a right answer\n" in done.out
    (own / "005.png").unlink()
    (own / "003.png").rename(own / "moved.png")
    assert cli("build-index", own, "-o", index, "--prune", "--model-dir", tiny_model.parent).code == 0
    assert cli("compact", index).code == 0
    (query,) = stored(Gallery.open(index)).queries
    assert (query.reference, query.targets, query.wrong) == ("001.png", {"002.png"}, {"moved.png"})
    assert (
        "  3 marks on hits of 2 queries, 1 with a right answer; 1 more about images that are gone\n"
        in cli("questions", index).out
    )
    assert cli("rollback", index, "--to", "1").code == 0
    assert "  4 marks on hits of 2 queries" in cli("questions", index).out
    mistake(cli("questions", index, "--from-marks", "--metadata", "colour=x"), "exclude each other")
    (index / "marks.jsonl").write_text("{}\n")
    mistake(cli("questions", index), "marks.jsonl: line 1 is damaged", "cir repair")
    assert "marks.jsonl: line 1 is damaged" in cli("verify", index).out


def test_mistakes(cli: Run, index: Path, tiny_model: Path, other_model: Path, tmp_path: Path) -> None:
    query = ["query", index, "--judge", "--model-dir", tiny_model.parent]
    for words in (["-i", "001.png"], ["-t", "red", "--not", "blue"], ["-t", "x", "-i", "001.png", "-i", "002.png"]):
        mistake(cli(*query, *words), "--judge needs a query of a text (-t) and at most one reference")
    for words in (["-"], ["-t", "red", "--json"], ["-t", "red", "--paths"]):
        mistake(cli(*query, *words), "leave out -, --json and --paths")
    mistake(cli(*query, "-t", "red", "-i", "-"), "--judge reads answers from standard input")
    (tmp_path / "new.png").write_bytes(make_png())
    mistake(cli(*query, "-t", "red", "-i", tmp_path / "new.png"), "new.png is no image of", "cir build-index")
    replace = ["replace-model", index, other_model, "--model-dir", tiny_model.parent]
    mistake(cli(*replace, "--judge-pool"), "0 queries are marked, 200 are needed")
    mistake(cli(*replace, "--judge-pool", "--json"), "--judge-pool only asks")
    mistake(cli(*replace, "--sheet", tmp_path / "x.png"), "--sheet shows what --judge-pool asks about")
    assert not (index / "marks.jsonl").exists()


def make_png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "png")
    return file.getvalue()


def mark_hits_of(index: Path, model: Path, is_right: Answer) -> None:
    """Mark the first ten hits of the index's own model for `QUERIES` queries."""
    searcher = open_index(index, model=model)
    queries = [Query((searcher.gallery.ids[n % 60],), CAPTIONS[n // 60]) for n in range(QUERIES)]
    digest = {name: searcher.gallery.image(name).digest.hex() for name in searcher.gallery.ids}
    lines = []
    for result in searcher.search_many(queries):
        (reference,) = result.query.references
        judged = JudgedQuery("", reference, result.query.text, frozenset())
        lines += [
            Mark(judged.caption, hit.id, digest[hit.id], is_right(judged, hit.id), reference, digest[reference])
            for hit in result.hits
        ]
    append_marks(IndexFolder(index), lines)


def pool_lines(index: Path, models: Sequence[Path], is_right: Answer) -> str:
    """The answers to what `--judge-pool` asks."""
    searcher, new = open_index(index, model=models[0]), load_model(models[1])
    collector = SampleCollector(searcher, new, 2000)
    given = pools(collector, older_spaces(searcher.gallery, new.card), marked(searcher.gallery).queries)
    assert any(list(pool.unjudged) != sorted(pool.unjudged) for pool in given)
    return "".join("y\n" if is_right(pool.query, name) else "n\n" for pool in given for name in pool.unjudged)


@pytest.mark.slow
@pytest.mark.parametrize("better", [True, False])
def test_marks_decide_only_when_both_models_hits_are_judged(
    cli: Run,
    index: Path,
    tiny_model: Path,
    other_model: Path,
    questions_for: Callable[..., Path],
    answers: Callable[[str], None],
    tmp_path: Path,
    better: bool,
) -> None:
    """The right answer is the first hit of one of the models; every other query has a second one, of the old model."""
    file = questions_for(other_model if better else tiny_model, count=QUERIES)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    truth = {(line["reference"], line["caption"]): {*line["targets"]} for line in lines}
    searcher = open_index(index, model=tiny_model)
    for (reference, caption), right in list(truth.items())[::2]:
        right.add(searcher.search(Query((reference,), caption)).hits[4].id)

    def is_right(query: JudgedQuery, image: str) -> bool:
        return image in truth[query.reference, query.caption]

    mark_hits_of(index, tiny_model, is_right)
    assert cli("questions", index, "--from-marks").code == 0
    words = ["replace-model", index, other_model, "--accept-noninferior", "100", "--model-dir", tiny_model.parent]
    one_sided = cli(*words)
    assert one_sided.code == 1, one_sided.err
    assert "marks on one model's hits alone favour it, so they neither pass nor refuse" in one_sided.out
    assert "--judge-pool" in one_sided.out
    assert "verdict" not in one_sided.out
    given = pool_lines(index, (tiny_model, other_model), is_right)
    answers(given[:200])
    part = cli(*words[:3], "--judge-pool", *words[5:])
    assert part.code == 0, part.err
    assert f"{index}: 100 marks kept" in part.out
    answers(given[200:])
    rest = cli(*words[:3], "--judge-pool", "--sheet", tmp_path / "pool.png", *words[5:])
    assert f"{index}: {len(given) // 2 - 100:,} marks kept; 0 queries are left to judge" in rest.out
    assert (tmp_path / "pool.png").stat().st_size
    assert cli("questions", index, "--from-marks").code == 0
    measured = cli(*words, "--json") if better else cli(*words)
    assert measured.code == int(not better), measured.err
    if better:
        (space,) = measured.json["spaces"]
        assert (space["unjudged_queries"], space["questions"]) == (0, QUERIES)
        assert all(0 < share < 1 for share in space["dropped"].values())
        assert space["baselines"]["reindexed"] == {"R@1": 1.0, "R@10": 1.0}
        assert space["verdict"]["route"]
    else:
        assert "left out of its ranking because nobody has judged them" in measured.out
        assert "no better even after a full re-index" in measured.out
        assert "verdict: refused" in measured.out
