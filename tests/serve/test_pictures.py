"""Photos and thumbnails: by id alone, and only what was indexed where it was indexed."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import cir
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import FakeEncoder, build, folder_of, make_index, paint, random_rows
from cir.testing.pictures import saved, shades

if TYPE_CHECKING:
    from cir.testing.served import Served


def opened(index: Path, **options: Any) -> cir.Searcher:
    return cir.Searcher(Gallery.open(index, **options), lambda card: FakeEncoder(tokens=card.tokens))


def test_a_photo_is_served_as_it_is(api: Served, tmp_path: Path) -> None:
    response = api.request("GET", "/images/0003.png")
    assert response.content == (tmp_path / "photos" / "0003.png").read_bytes()
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert "sandbox" in response.headers["content-security-policy"]


def test_addresses_in_answers_lead_to_photos(api: Served) -> None:
    hit = api.search(text="red")["hits"][0]
    for address, kind in ((hit["image"], "image/png"), (hit["thumbnail"], "image/jpeg")):
        response = api.request("GET", address)
        assert (response.status_code, response.headers["content-type"]) == (200, kind)
        assert "immutable" in response.headers["cache-control"]
        again = api.request("GET", address, headers={"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert "no-cache" in api.request("GET", f"/images/{hit['id']}").headers["cache-control"]


def test_a_thumbnail_is_made_once(api: Served, gallery_folder: Path) -> None:
    first = api.request("GET", "/thumbnails/0003.png?size=160")
    cached = list((gallery_folder.parent / "my.index.thumbnails").iterdir())
    assert [file.read_bytes() for file in cached] == [first.content]
    shutil.rmtree(gallery_folder.parent / "photos")
    assert api.request("GET", "/thumbnails/0003.png?size=160").content == first.content
    assert api.request("GET", "/thumbnails/0004.png?size=160").status_code == 404
    counted = api.request("GET", "/metrics").text
    assert 'cir_thumbnails_total{source="made"} 1.0' in counted
    assert 'cir_thumbnails_total{source="kept"} 1.0' in counted


def test_formats_that_browsers_do_not_show_become_jpeg(serve: Callable[..., Served], tmp_path: Path) -> None:
    photos = tmp_path / "others"
    photos.mkdir()
    picture = shades()
    for name, kind in (("a.tif", "TIFF"), ("b.bmp", "BMP"), ("c.webp", "WEBP"), ("d.jpg", "JPEG"), ("e.gif", "GIF")):
        (photos / name).write_bytes(saved(picture, kind))
    build(photos, tmp_path / "others.index")
    api = serve(opened(tmp_path / "others.index"))
    kinds = {
        name: api.request("GET", f"/images/{name}").headers["content-type"]
        for name in ("a.tif", "b.bmp", "c.webp", "d.jpg", "e.gif")
    }
    assert list(kinds.values()) == ["image/jpeg", "image/jpeg", "image/webp", "image/jpeg", "image/gif"]
    shown = Image.open(io.BytesIO(api.request("GET", "/images/a.tif").content)).convert("RGB")
    assert np.abs(np.asarray(shown, int) - np.asarray(picture, int)).max() < 40


@pytest.mark.parametrize(
    "name",
    [
        "caf\u00e9 \u2603.png",
        "a b/c?d#e%2f.png",
        "line\nend.png",
        os.fsdecode(b"caf\xe9.png"),
        "<script>.png",
        "\"'&.png",
    ],
)
def test_any_name_can_be_asked_for(serve: Callable[..., Served], tmp_path: Path, name: str) -> None:
    photos = tmp_path / "odd"
    paint(photos / "plain.png", 1)
    paint(photos / name, 2)
    build(photos, tmp_path / "odd.index")
    api = serve(opened(tmp_path / "odd.index"))
    (hit,) = api.search(references="plain.png", k=5)["hits"]
    assert hit["id"] == name
    assert api.request("GET", hit["image"]).content == (photos / name).read_bytes()
    assert api.request("GET", hit["thumbnail"]).status_code == 200
    assert api.request("GET", f"/metadata/{quote(os.fsencode(name))}").json()["id"] == name


@pytest.mark.parametrize(
    "name",
    [
        "../my.index/CURRENT",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "0003.png%00.jpg",
        "0003.png/../../secret.png",
        "%ff%fe",
        "%",
        "photos.zip/x",
        "C:%5Cwindows",
        "a" * 5000,
    ],
)
@pytest.mark.parametrize("kind", ["images", "thumbnails", "metadata"])
def test_no_other_file_can_be_asked_for(api: Served, tmp_path: Path, kind: str, name: str) -> None:
    paint(tmp_path / "secret.png", 5)
    response = api.request("GET", f"/{kind}/{name}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_a_link_out_of_the_folder_is_not_followed(serve: Callable[..., Served], tmp_path: Path) -> None:
    secret = paint(tmp_path / "private" / "secret.png", 5)
    photos = folder_of(tmp_path / "linked", 3)
    (photos / "9.png").symlink_to(secret)
    build(photos, tmp_path / "linked.index")
    api = serve(opened(tmp_path / "linked.index"))
    refused = api.request("GET", "/images/9.png")
    assert refused.status_code == 404
    assert "leads out of the folder" in refused.json()["detail"]
    assert api.request("GET", "/thumbnails/9.png").status_code == 404
    build(secret.parent, tmp_path / "private.index")  # now its folder is one that this user has indexed
    assert api.request("GET", "/images/9.png").status_code == 200


def test_a_photo_that_was_changed_is_not_served(api: Served, tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "0003.png", 555)
    refused = api.request("GET", "/images/0003.png")
    assert refused.status_code == 404
    assert refused.json()["detail"] == "0003.png: the photo has changed since it was indexed; run build-index"


def test_photos_of_somebody_elses_index_are_not_read(serve: Callable[..., Served], tmp_path: Path) -> None:
    """It names /photos as its root, where this user has indexed nothing."""
    make_index(tmp_path / "foreign.index", [random_rows(["../../etc/passwd", "a.jpg", "/etc/hosts"], 1)])
    api = serve(opened(tmp_path / "foreign.index"))
    for name in ("a.jpg", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fhosts"):
        refused = api.request("GET", f"/images/{name}")
        assert refused.status_code == 404
        assert "root:" not in refused.text
    trusted = serve(opened(tmp_path / "foreign.index", trust_roots=True))
    hits = trusted.search(text="red")["hits"]
    assert sorted(hit["id"] for hit in hits) == ["../../etc/passwd", "/etc/hosts", "a.jpg"]
    assert [hit["photo"] for hit in hits] == [False] * 3
    for name in ("a.jpg", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fhosts"):
        assert trusted.request("GET", f"/images/{name}").status_code == 404


def test_some_images_at_random(api: Served) -> None:
    drawn = api.request("GET", "/random?n=5&seed=3").json()
    assert len(drawn["images"]) == 5
    assert api.request("GET", "/random?n=5&seed=3").json() == drawn
    assert len(api.request("GET", "/random?n=100").json()["images"]) == 20
    assert api.request("GET", "/random?n=0").status_code == 422
    assert api.request("GET", "/random?seed=x").json()["detail"].startswith('"seed": ')


class TestThumbnails:
    """The folder of thumbnails."""

    NAME = "0" * 63
    JPEG = b"\xff\xd8\xff" + b"x" * 97

    def test_the_folder_is_bounded_and_the_oldest_go(self, tmp_path: Path) -> None:
        from cir.serve.thumbnails import Thumbnails

        kept = Thumbnails(tmp_path / "t", 1000)
        for number in range(10):
            kept.put(f"{self.NAME}{number}", 160, self.JPEG)
        assert kept.get(f"{self.NAME}0", 160) == self.JPEG  # was used just now
        kept.put(f"{self.NAME}a", 160, self.JPEG)
        files = {file.name for file in (tmp_path / "t").iterdir()}
        assert sum(file.stat().st_size for file in (tmp_path / "t").iterdir()) <= 1000
        assert f"{self.NAME}0-160.jpg" in files
        assert f"{self.NAME}1-160.jpg" not in files
        again = Thumbnails(tmp_path / "t", 1000)
        assert again.get(f"{self.NAME}a", 160) == self.JPEG

    def test_what_was_planted_is_not_believed(self, tmp_path: Path) -> None:
        from cir.serve.thumbnails import Thumbnails

        folder = tmp_path / "t"
        folder.mkdir()
        secret = tmp_path / "secret"
        secret.write_bytes(self.JPEG)
        (folder / f"{self.NAME}1-160.jpg").symlink_to(secret)
        (folder / f"{self.NAME}2-160.jpg").write_bytes(b"<script>")
        (folder / f"{self.NAME}3-160.jpg").mkdir()
        os.mkfifo(folder / f"{self.NAME}4-160.jpg")
        kept = Thumbnails(folder, 10**6)
        assert [kept.get(f"{self.NAME}{number}", 160) for number in range(1, 5)] == [None] * 4
        kept.put(f"{self.NAME}1", 160, b"\xff\xd8\xffnew")
        assert secret.read_bytes() == self.JPEG
        assert kept.get(f"{self.NAME}1", 160) == b"\xff\xd8\xffnew"

    def test_a_folder_that_is_a_link_is_not_used(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        from cir.serve.thumbnails import Thumbnails

        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "t").symlink_to(tmp_path / "elsewhere")
        kept = Thumbnails(tmp_path / "t", 10**6)
        kept.put(f"{self.NAME}1", 160, self.JPEG)
        assert not list((tmp_path / "elsewhere").iterdir())
        assert "is a link" in caplog.text
        assert kept.get(f"{self.NAME}1", 160) is None

    def test_where_nothing_can_be_written_none_is_kept(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        from cir.serve.thumbnails import Thumbnails

        (tmp_path / "t").write_text("a file")
        kept = Thumbnails(tmp_path / "t", 10**6)
        for _ in range(2):
            kept.put(f"{self.NAME}1", 160, self.JPEG)
        assert caplog.text.count("no thumbnails are kept") == 1
