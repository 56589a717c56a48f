"""Reading a picture is bounded: regular files, so many bytes, whatever a zip says of itself."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from cir.errors import ImageDecodeError
from cir.images import ImageFile, decode, scan
from cir.testing.fakes import build, paint
from cir.testing.pictures import small_png, zipped

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def file(path: Path) -> ImageFile:
    return ImageFile(path.name, str(path.parent), str(path))


@pytest.mark.parametrize("name", ["pipe.jpg", "zero.jpg", "folder.jpg", "huge.jpg", "pipe.zip"])
def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name == "zero.jpg":
        path.symlink_to("/dev/zero")
    elif name == "folder.jpg":
        path.mkdir()
    else:
        with path.open("wb") as sparse:
            sparse.truncate(3_000_000_000)
    with pytest.raises(ImageDecodeError, match=r"not a regular file|larger than 256 MB"):
        file(path).read()
    paint(tmp_path / "good.png", 0)
    report = build(tmp_path, tmp_path.parent / "an.index")
    assert report.total == 1
    assert [skipped for skipped, _ in report.skipped] == ([] if name == "folder.jpg" else [name])
    listed = (tmp_path.parent / "an.index" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == [skipped for skipped, _ in report.skipped]


def test_a_file_that_grows_while_it_is_read_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 5000)
    sizes = iter([100, 10**9])
    real = os.fstat

    def smaller(handle: int) -> os.stat_result:
        state = list(real(handle))
        state[6] = next(sizes)
        return os.stat_result(state)

    with monkeypatch.context() as patch:
        patch.setattr("cir.files.stat.S_ISREG", lambda mode: True)
        patch.setattr("cir.files.os.fstat", lambda handle: smaller(handle) if real(handle).st_size == 5000 else None)
        sizes = iter([0, 100])
        with pytest.raises(ImageDecodeError, match="larger than"):
            file(path).read(limit=1000)
        sizes = iter([0, 100])
        assert len(file(path).read(limit=5000)) == 5000


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_zip_bomb_costs_the_limit_and_no_more(tmp_path: Path, method: int) -> None:
    """What a member says of its size is not asked; bzip2 and LZMA would unpack it whole from one block."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("bomb.jpg", bytes(30_000_000))
        archive.writestr("good.png", small_png())
    bomb, good = scan(tmp_path / "a.zip")
    tracemalloc.start()
    with pytest.raises(ImageDecodeError, match="larger than 1 MB"):
        bomb.read(limit=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000  # of which LZMA's dictionary takes 8
    assert decode(good.read(), "good").size == (4, 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_pack_is_unpacked(tmp_path: Path, method: int) -> None:
    content = os.urandom(70_000) + bytes(300_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", content)
        archive.writestr("empty.png", b"")
    first, second = scan(tmp_path / "a.zip")
    assert (first.read(), second.read()) == (content, b"")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1", "encrypted"),
        (b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x63\0", "method 99"),
        (b"PK\3\4", b"PK\3\5", "damaged"),
        (b"IDAT", b"IDAX", "checksum differs"),
    ],
    ids=["encrypted", "unknown method", "no header", "checksum"],
)
def test_members_that_cannot_be_unpacked_say_why(tmp_path: Path, old: bytes, new: bytes, reason: str) -> None:
    path = zipped(tmp_path / "a.zip", "a.png")
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ImageDecodeError, match=rf"a\.png: cannot be read: .*{reason}"):
        scan(path)[0].read()


def test_members_that_share_their_bytes_are_one(tmp_path: Path) -> None:
    """A directory that names the same bytes a thousand times unpacks them a thousand times."""
    path = zipped(tmp_path / "a.zip", "aa.png", "ab.png", "ac.png")
    data = bytearray(path.read_bytes())
    entries = [data.index(f"a{letter}.png".encode(), data.index(b"PK\1\2")) - 46 for letter in "abc"]
    for entry in entries[1:]:
        data[entry + 42 : entry + 46] = bytes(4)  # the offset of the first
    path.write_bytes(data)
    found = scan(path)
    assert len(found) + len(found.unusable) == 3
    assert all("shares its bytes" in reason for _, reason in found.unusable)
    assert len(found) <= 1


def test_a_zip_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "a.png")
    assert [image.id for image in scan(path)] == ["a.png"]
    zipped(path, "b.png", "longer-name.png")
    assert [image.id for image in scan(path)] == ["b.png", "longer-name.png"]


def test_too_little_memory_is_a_reason_to_skip_and_no_end(tmp_path: Path) -> None:
    """A real shortage: the process may take 250 MB more than it has."""
    Image.new("L", (9000, 9000)).save(tmp_path / "large.png")
    paint(tmp_path / "good.png", 0)
    code = f"""
import resource
from cir.testing.fakes import build
from pathlib import Path
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 250_000_000,) * 2)
report = build(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}) / "an.index", workers=1)
print(report.total, report.skipped)
"""
    if sys.platform != "linux" or resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("limits of memory are Linux's")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 [('large.png', 'large.png: not enough memory"), done.stdout
