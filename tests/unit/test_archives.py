"""Tars and parquet files as sources of pictures: what they hold, what is refused, how a picture is found again."""

from __future__ import annotations

import gzip
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cir.errors import DataError, ImageDecodeError, MissingImageError
from cir.images import file_at, locate, scan
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import build, folder_of

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def pictures(photos: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(photos.iterdir())[:6]}


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_shard_of_webdataset(pictures: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "shard-000.tar"
    others = {"0000.txt": b"a caption", "0000.json": b"{}", "../out.png": b"x"}
    with tarfile.open(path, "w") as archive:
        for name, data in (*pictures.items(), *others.items(), ("0002.png", b"again")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = scan(path)
    assert [image.id for image in found] == sorted(pictures)
    assert found.passed_over == {".json files": 1, ".txt files": 1}
    assert {name for name, _ in found.unusable} == {"../out.png", "0002.png", "link.png"}
    assert [image.read() for image in found] == list(pictures.values())
    assert locate(str(path), "0003.png").read() == pictures["0003.png"]
    assert file_at(path / "0003.png").read() == pictures["0003.png"]
    with pytest.raises(MissingImageError):
        locate(str(path), "0009.png")


def test_tars_below_a_folder_and_several(pictures: dict[str, bytes], tmp_path: Path) -> None:
    for number, (name, data) in enumerate(pictures.items()):
        (tmp_path / "shards").mkdir(exist_ok=True)
        tar_of(tmp_path / "shards" / f"{number}.tar", {f"inner/{name}": data})
    below = scan(tmp_path / "shards")
    assert [image.id for image in below][:2] == ["0.tar/inner/0000.png", "1.tar/inner/0001.png"]
    assert locate(below[1].root, below[1].id) == below[1]
    given = scan(sorted((tmp_path / "shards").iterdir())[:2])
    assert [image.id for image in given] == ["0.tar/inner/0000.png", "1.tar/inner/0001.png"]


def test_broken_tars(pictures: dict[str, bytes], tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "whole.tar", pictures).read_bytes()
    (tmp_path / "none.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"none\.tar: not a readable tar"):
        scan(tmp_path / "none.tar")
    (tmp_path / "pressed.tar").write_bytes(__import__("gzip").compress(whole))
    with pytest.raises(DataError, match="not a readable tar"):
        scan(tmp_path / "pressed.tar")
    damaged = bytearray(whole)
    damaged[2 * 1024 : 2 * 1024 + 512] = b"?" * 512  # the header of the third
    (tmp_path / "damaged.tar").write_bytes(damaged)
    with pytest.raises(DataError, match="damaged at byte 2,048"):
        scan(tmp_path / "damaged.tar")
    (tmp_path / "short.tar").write_bytes(whole[: 1024 + 512 + 10])  # ends in the second
    with pytest.raises(DataError, match="unexpected end of data"):
        scan(tmp_path / "short.tar")


def test_a_column_of_bytes(pictures: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    data = [*pictures.values(), None]
    ids = ["a", "b", "c", "d", "b", "../f", "g"]
    parquet.write_table(arrow.table({"id": ids, "jpg": data, "label": list(range(7))}), path, row_group_size=2)
    found = scan(path)
    assert [image.id for image in found] == ["a", "b", "c", "d", "g"]
    assert dict(found.unusable).keys() == {"b", "../f"}
    assert [image.read() for image in found[:4]] == list(pictures.values())[:4]
    with pytest.raises(ImageDecodeError, match="no picture"):
        found[4].read()
    assert locate(str(path), "c").read() == pictures["0002.png"]
    report = build(path, tmp_path / "my.index", segment_rows=2)
    assert (report.added, [name for name, _ in report.skipped]) == (["a", "b", "c", "d"], ["../f", "b", "g"])
    assert Gallery.open(tmp_path / "my.index").image("d").read() == pictures["0003.png"]


def test_records_with_bytes_and_rows_without_a_name(pictures: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "below" / "hub.parquet"
    path.parent.mkdir()
    images = [{"bytes": data, "path": name} for name, data in pictures.items()]
    parquet.write_table(arrow.table({"image": images, "thumbnail": [b"x"] * len(images)}), path)
    parquet.write_table(arrow.table({"file_name": ["a.png"]}), path.with_name("metadata.parquet"))
    found = scan(tmp_path / "below")
    assert [image.id for image in found][:2] == ["hub.parquet/000000000", "hub.parquet/000000001"]
    assert found.passed_over == {".parquet files": 1}
    assert [image.read() for image in found] == list(pictures.values())


def test_a_column_of_paths(pictures: dict[str, bytes], photos: Path) -> None:
    path = photos / "list.parquet"
    places = [*pictures, "none.png", "/etc/passwd", "../x.png", "s3://a/b.png", None]
    parquet.write_table(arrow.table({"path": places}), path)
    found = scan(path)
    assert [image.read() for image in found[:6]] == list(pictures.values())
    with pytest.raises(MissingImageError):
        found[6].read()
    assert [name for name, _ in found.unusable] == ["000000007", "000000008", "000000009", "000000010"]


@pytest.fixture
def server(photos: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: object) -> None:
            super().__init__(*words, directory=str(photos))  # type: ignore[arg-type]

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_column_of_addresses(pictures: dict[str, bytes], server: str, tmp_path: Path) -> None:
    path = tmp_path / "web.parquet"
    addresses = [*(f"{server}/{name}" for name in pictures), f"{server}/none.png", "http://127.0.0.1:1/a.png"]
    parquet.write_table(arrow.table({"url": addresses, "key": list(range(8))}), path)
    found = scan(path)
    assert [image.read() for image in found[:6]] == list(pictures.values())
    with pytest.raises(MissingImageError):
        found[6].read()
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        found[7].read()


def test_a_parquet_file_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "numbers.parquet"
    parquet.write_table(arrow.table({"x": [1, 2]}), path)
    with pytest.raises(DataError, match="no column of pictures"):
        scan(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable parquet"):
        scan(path)
    folder_of(tmp_path, 1)
    assert [name for name, _ in scan(tmp_path).unusable] == ["numbers.parquet"]


@pytest.mark.parametrize("name", ["shard.tar", "shard.tar.gz", "SHARD.TGZ"])
def test_a_compressed_tar_is_said_to_be_one(pictures: dict[str, bytes], tmp_path: Path, name: str) -> None:
    plain = tar_of(tmp_path / "plain", pictures)
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(DataError, match=r"compressed.*unpack it, and make a plain tar"):
        scan(tmp_path / name)


def test_a_picture_that_a_table_names_in_vain_is_named(pictures: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    (tmp_path / "0001.png").write_bytes(pictures["0001.png"])
    parquet.write_table(arrow.table({"path": ["0001.png", "none.png"]}), path)
    there, gone = scan(path)
    assert there.read() == pictures["0001.png"]
    with pytest.raises(MissingImageError, match=r"no longer at .*none\.png"):
        gone.read()
