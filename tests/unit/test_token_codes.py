"""Codes of tokens: derived, measured when they are made, and no answer depends on luck."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Floats, Mask, Stored
from cir.arrays import Rows as RowNumbers
from cir.errors import DataError
from cir.indexer.reading import token_codes
from cir.indexer.reading.exact import rescore
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.token_codes import FILE, TokenCodes, load_or_build
from cir.indexer.reading.token_curve import OPENED, OpeningCurve, questions
from cir.indexer.reading.verify import verify
from cir.indexer.storage.derived import measured_of, record_of, write_record
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.assemble import build_derived
from cir.query_vectors import QueryVectors
from cir.testing.fakes import Rows, make_index, unit_rows
from cir.typed_json import from_json

IMAGES, TOKENS, DIMS = 3000, 4, 32
RECORD = record_of(Path(FILE)).name


def clustered(images: int = IMAGES, tokens: int = TOKENS, dims: int = DIMS) -> Stored:
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((20, dims))
    image = centres[rng.integers(0, 20, images)] + rng.standard_normal((images, dims))
    noise = rng.standard_normal((images * tokens, dims))
    return unit_rows(np.repeat(image, tokens, axis=0) + noise).reshape(images, tokens, dims).astype(np.float16)


def asked(tokens: Stored, count: int = 64) -> Floats:
    """Between two tokens, with noise."""
    rng = np.random.default_rng(9)
    first, second = tokens[rng.integers(0, len(tokens), (2, count)), 0].astype(np.float32)
    return unit_rows(first + 0.7 * second + 0.05 * rng.standard_normal(first.shape))


def best(tokens: Stored, query: Floats, count: int, usable: Mask | None = None) -> RowNumbers:
    scores = rescore(tokens, np.arange(len(tokens)), query)
    scores[~usable if usable is not None else []] = -np.inf
    return np.argsort(-scores, kind="stable")[:count]


def recall(tokens: Stored, queries: Floats, found: list[RowNumbers], usable: Mask | None = None) -> float:
    wanted = [best(tokens, query, 10, usable) for query in queries]
    return float(np.mean([np.isin(rows, near).mean() for rows, near in zip(wanted, found, strict=True)]))


def load(folder: Path, tokens: Stored, origin: str = "d") -> TokenCodes:
    codes = load_or_build(folder, origin, tokens)
    assert codes is not None
    return codes


@pytest.fixture(scope="module")
def tokens() -> Stored:
    return clustered()


@pytest.fixture(scope="module")
def codes(tokens: Stored, tmp_path_factory: pytest.TempPathFactory) -> TokenCodes:
    return load(tmp_path_factory.mktemp("codes"), tokens)


@pytest.fixture(autouse=True)
def open_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_codes, "_LEAST_OPENED", 1)


def test_the_promise_is_kept_and_few_images_are_opened(
    codes: TokenCodes, tokens: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = asked(tokens)
    assert recall(tokens, queries, codes.search(queries, 10, 0.99)) >= 0.99
    read = []
    plain = token_codes._multiplication

    def counted(queries: Floats) -> tuple[Callable[[token_codes.Codes], Floats], Floats]:
        multiply, steps = plain(queries)
        return lambda rows: (read.append(len(rows)), multiply(rows))[1], steps

    monkeypatch.setattr(token_codes, "_multiplication", counted)
    share = codes.curve.share(10, 1.0, 0.99)
    assert share < 0.5
    codes.search(queries[:1], 10, 0.99)
    assert sum(read) == IMAGES + round(share * IMAGES) * (TOKENS - 1)


def test_with_all_images_opened_nothing_is_missed(codes: TokenCodes, tokens: Stored) -> None:
    queries = asked(tokens)
    found = codes.search(queries, 10, 1.0)
    assert recall(tokens, queries, found) == 1
    assert {len(rows) for rows in found} == {40}


def test_images_without_structure_are_all_opened(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    alone = unit_rows(rng.standard_normal((2000 * 32, DIMS))).reshape(2000, 32, DIMS).astype(np.float16)
    codes, queries = load(tmp_path, alone), asked(alone)
    assert codes.curve.share(10, 1.0, 0.99) > 0.5
    assert recall(alone, queries, codes.search(queries, 10, 0.99)) >= 0.99


@pytest.mark.parametrize("share", [1 / 7, 1 / 100])
def test_a_filter_keeps_the_promise(codes: TokenCodes, tokens: Stored, share: float) -> None:
    queries = asked(tokens)
    usable = np.random.default_rng(3).random(len(tokens)) < share
    found = codes.search(queries, 10, 0.99, usable)
    assert all(usable[rows].all() for rows in found)
    assert recall(tokens, queries, found, usable) >= 0.99
    assert [len(rows) for rows in codes.search(queries[:1], 10, 0.99, np.zeros(len(tokens), bool))] == [0]


def test_queries_together_find_what_each_finds_alone(codes: TokenCodes, tokens: Stored) -> None:
    queries = asked(tokens, 11)
    for query, rows in zip(queries, codes.search(queries, 10, 0.9), strict=True):
        assert set(codes.search(query[None], 10, 0.9)[0].tolist()) == set(rows.tolist())


def test_equal_images_are_found_together(tmp_path: Path) -> None:
    tokens = np.repeat(clustered(30), 5, axis=0)
    found = load(tmp_path, tokens).search(tokens[:1, 0].astype(np.float32), 5, 1.0)
    assert set(range(5)) <= set(found[0].tolist())


@pytest.mark.parametrize("each", [1, 2, 7])
def test_any_number_of_tokens(tmp_path: Path, each: int) -> None:
    tokens = clustered(300, each)
    queries = asked(tokens)
    assert recall(tokens, queries, load(tmp_path, tokens).search(queries, 10, 1.0)) == 1
    assert (tmp_path / FILE).stat().st_size == tokens.size


def test_without_numkong(codes: TokenCodes, tokens: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = asked(tokens)
    wanted = codes.search(queries, 10, 0.99)
    monkeypatch.setitem(sys.modules, "numkong", None)
    for rows, others in zip(codes.search(queries, 10, 0.99), wanted, strict=True):
        np.testing.assert_array_equal(np.sort(rows), np.sort(others))


def lose_codes(folder: Path) -> None:
    (folder / FILE).unlink()


def lose_record(folder: Path) -> None:
    (folder / RECORD).unlink()


def flip(folder: Path) -> None:
    data = bytearray((folder / FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / FILE).write_bytes(data)


def truncate(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:100])


def garble(folder: Path) -> None:
    (folder / RECORD).write_text("{")


def of_another(folder: Path) -> None:
    write_record(folder / FILE, "another", measured_of(folder / FILE))


def of_other_tokens(folder: Path) -> None:
    measured = measured_of(folder / FILE)
    (folder / FILE).write_bytes(bytes(100))
    write_record(folder / FILE, "d", measured)


def craft(**changes: object) -> Callable[[Path], None]:
    """A record whose digests are right, but not what it says."""

    def damage(folder: Path) -> None:
        write_record(folder / FILE, "d", {**(measured_of(folder / FILE) or {}), **changes})

    damage.__name__ = "craft-" + "-".join(changes)
    return damage


DAMAGE = [lose_codes, lose_record, flip, truncate, garble, of_another, of_other_tokens]
DAMAGE += [craft(mean_scale=0.0), craft(difference_scale="1"), craft(curve=None), craft(more=1)]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_they_are_made_again_when_lost_stale_or_damaged(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = clustered(500)
    query = asked(tokens, 1)
    before = load(tmp_path, tokens).search(query, 10, 0.99)[0]
    kept = (tmp_path / FILE).read_bytes(), (tmp_path / RECORD).read_bytes()
    damage(tmp_path)
    np.testing.assert_array_equal(load(tmp_path, tokens).search(query, 10, 0.99)[0], before)
    assert ((tmp_path / FILE).read_bytes(), (tmp_path / RECORD).read_bytes()) == kept
    assert ("it is made again" in caplog.text) == (damage not in (lose_codes, lose_record))


def test_kept_codes_are_used_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = clustered(100)
    load(tmp_path, tokens)
    monkeypatch.setattr(token_codes, "_make", None)
    codes = load(tmp_path, tokens)
    assert not codes._means.flags.owndata
    assert not codes._differences.flags.writeable


def test_a_reader_without_the_right_to_write_searches_exactly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").touch()
    assert load_or_build(tmp_path / "folder", "d", clustered(100)) is None
    assert "searched exactly" in caplog.text


def test_given_queries_are_measured_too(tmp_path: Path) -> None:
    tokens = clustered(400)
    codes = load_or_build(tmp_path, "d", tokens, lambda: asked(tokens, 5))
    assert codes is not None
    assert codes.curve.queries == {"stored": 128, "between": 128, "given": 5}


def test_the_curve_tells_what_is_measured(codes: TokenCodes, tokens: Stored) -> None:
    """Recall at a share is that of the images whose means are nearest, for the worst kind of queries."""
    kinds = questions(tokens, None)
    means = tokens.astype(np.float32).mean(axis=1)
    found: dict[str, list[float]] = {}
    for kind, judged in kinds.items():
        for number, query in enumerate(judged.queries):
            own = judged._own
            others = np.arange(len(tokens)) != (-1 if own is None else own[number])
            opened = np.argsort(-(means @ query))[: int(OPENED[12] * len(tokens))]
            wanted = best(tokens, query, 10, others)
            found.setdefault(kind, []).append(float(np.isin(wanted, opened).mean()))
    assert codes.curve.recall[0][12] == pytest.approx(min(np.mean(each) for each in found.values()), abs=0.01)
    assert codes.curve.recall[0][-1] == 1


CURVE = OpeningCurve({"stored": 1}, (10, 100), (0.5, 1.0), ((0.9, 1.0), (0.8, 1.0)), ((0.9, 1.0), (0.8, 1.0)))


def test_the_share_follows_the_curve() -> None:
    assert CURVE.share(10, 1.0, 0.9) == 0.5
    assert CURVE.share(10, 1.0, 0.91) == 1
    assert CURVE.share(5, 0.5, 0.9) == 0.5
    assert CURVE.share(11, 1.0, 0.9) == CURVE.share(10, 0.5, 0.9) == 1
    assert CURVE.share(11, 1.0, 0.8) == 0.5
    assert CURVE.share(101, 1.0, 0.1) == 1


@pytest.mark.parametrize(
    "changes",
    [{"depths": (100, 10)}, {"opened": (0.5, 0.9)}, {"opened": (1.0, 0.5)}, {"recall": ((1.0, 1.0),)}, {"lower": ()}],
    ids=str,
)
def test_a_curve_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(CURVE, **changes)  # type: ignore[arg-type]


def test_a_curve_is_read_strictly() -> None:
    values = {"queries": {}, "depths": [0], "opened": [1.0], "recall": [[1.0]], "lower": [[1.0]]}
    with pytest.raises(ValueError, match="depths"):
        from_json(OpeningCurve, values)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    tokens = clustered(400, dims=16).astype(np.float32)
    return make_index(tmp_path / "x.index", [Rows([f"{number:03d}" for number in range(400)], None, tokens)], 4, False)


def test_a_gallery_uses_them(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, gallery = Gallery.open(index), Gallery.open(index, ann_min_rows=1600)
    queries = QueryVectors({gallery.space.id: unit_rows(np.random.default_rng(1).standard_normal((20, 16)))})
    assert gallery.search(queries, RankingOptions(10, recall=1)) == exact.search(queries, RankingOptions(10))
    assert IndexFolder(index).gallery("000001").with_name(FILE).stat().st_size == 400 * 4 * 16
    kept = [[name for name, _ in hits] for hits in exact.search(queries, RankingOptions(10))]
    found = [[name for name, _ in hits] for hits in gallery.search(queries, RankingOptions(10))]
    assert np.mean([len({*a} & {*b}) for a, b in zip(kept, found, strict=True)]) >= 9.9
    monkeypatch.setattr(TokenCodes, "search", None)
    few = RankingOptions(3, allowed=np.arange(400) % 50 == 0)
    assert gallery.search(queries, few) == exact.search(queries, few)
    assert gallery.search(queries, RankingOptions(3, exact=True)) == exact.search(queries, RankingOptions(3))
    assert Gallery.open(index, ann_min_rows=1601).search(queries, few) == exact.search(queries, few)


def test_a_gallery_without_them_says_so_once(
    index: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room(path: Path, need: int = 0) -> None:
        raise DataError("disk full")

    monkeypatch.setattr(token_codes, "write_atomically", no_room)
    gallery = Gallery.open(index, ann_min_rows=10)
    queries = QueryVectors({gallery.space.id: np.eye(1, 16, dtype=np.float32)})
    for _ in range(2):
        assert gallery.search(queries, RankingOptions(3)) == Gallery.open(index).search(queries, RankingOptions(3))
    assert caplog.text.count("searched exactly") == 1


def test_writers_make_them(index: Path) -> None:
    folder = IndexFolder(index)
    build_derived(folder, read_manifest(folder), 1601)
    assert not folder.gallery("000001").with_name(FILE).exists()
    build_derived(folder, read_manifest(folder), 1600)
    assert folder.gallery("000001").with_name(FILE).exists()
    assert verify(index) == []
