"""Search over actors of Ray of an index in an object store, of which each fetches its own segments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`")

from cir.cluster.searching import Parts
from cir.cluster.session import joined
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.part_gallery import open_part_gallery, part_ranking
from cir.indexer.reading.ranking import RankingOptions
from cir.testing.fakes import FakeEncoder, build, folder_of, queries_for
from cir.testing.store_server import is_installed, store_server


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an index of three segments; the cache of this process is that of another machine than its builder."""
    if not is_installed():
        pytest.skip("needs obstore and moto[server], of the extra `dev`")
    with store_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "builder"))
        url = f"{server.make_bucket()}/my.index"
        build(folder_of(tmp_path / "photos", 24), Path(url), FakeEncoder(tokens=0), segment_rows=8)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "actors"))
        yield url


def test_a_part_fetches_its_own_segments(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Gallery.open(index)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "part"))
    pointer, manifest = whole._opened.pointer, whole.manifest
    part = open_part_gallery(index, pointer, manifest, (manifest.segments[1].name,), None, 10**9, "cpu")
    assert len(part) == 8
    assert part_ranking(part).query_spaces == whole.query_spaces
    fetched = [path.parent.name for path in (tmp_path / "part").rglob("gallery.h5")]
    assert fetched == [manifest.segments[1].name]


def test_answers_are_those_of_one_process(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with joined("local", 2):  # its actors have the cache of this moment
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "head"))
        with Parts(index, parts=2, deadline=60) as parts:
            spread, whole = Gallery.open(index, spread=parts), Gallery.open(index)
            wanted = queries_for(whole, "first", "second")
            for exact in (True, False):
                options = RankingOptions(10, exact=exact)
                assert spread.search(wanted, options) == whole.search(wanted, options)
    assert len(list((tmp_path / "actors").rglob("gallery.h5"))) == 3
