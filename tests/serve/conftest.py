"""What tests of the server share: an index of small pictures, and a server over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cir
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import FakeEncoder, build, folder_of

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("httpx")

if TYPE_CHECKING:
    from cir.testing.served import Served

MIN_SCORES = {"composed": 0.3, "text": 0.2}


@pytest.fixture
def gallery_folder(tmp_path: Path) -> Path:
    """An index of 0000.png to 0019.png, which a test may change; its photos are in `photos` beside it."""
    photos = folder_of(tmp_path / "photos", 20)
    images = cir.scan(photos)
    table = {
        image.id: {"season": ["Summer", "winter", ""][row % 3], "price": f"{row}.50", "title": f"picture {row}"}
        for row, image in enumerate(images)
    }
    build(photos, tmp_path / "my.index", metadata=table)
    return tmp_path / "my.index"


@pytest.fixture
def searcher(gallery_folder: Path) -> cir.Searcher:
    """A searcher of it, by the fake encoder with calibrated scores."""
    return cir.Searcher(
        Gallery.open(gallery_folder), lambda card: FakeEncoder(card.name, dims=card.dims, tokens=card.tokens)
    )


@pytest.fixture
def serve(searcher: cir.Searcher, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Makes servers over it: searcher, settings and limits -> server."""
    from cir.serve.settings import Limits, Settings
    from cir.testing.served import Served

    made: list[Served] = []

    def make(over: cir.Searcher | None = None, *, client: str = "127.0.0.1", **options: Any) -> Served:
        names = Limits.__dataclass_fields__
        limits = replace(Limits(), **{name: options.pop(name) for name in list(options) if name in names})
        settings = Settings(thumbnails=tmp_path / "my.index.thumbnails", limits=limits, **options)
        made.append(Served(over or searcher, settings, client=client))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def api(serve: Callable[..., Served]) -> Served:
    """A server."""
    return serve()
