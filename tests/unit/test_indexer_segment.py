"""Segment files, and the check of a whole index."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from cir import files
from cir.errors import CorruptIndexError, DataError
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, Segment, by_column, write_segment
from cir.testing.fakes import DIMS, FakeEncoder, unit_rows

LAYOUT = Layout.of(FakeEncoder().card)


def table(ids: list[str], metadata: list[dict[str, str]] | None = None) -> RowTable:
    rng = np.random.default_rng(len(ids))
    return RowTable(
        ids=ids,
        digests=rng.integers(0, 256, (len(ids), 32), dtype=np.uint8),
        roots=[f"/root{len(image_id) % 2}" for image_id in ids],
        metadata=by_column(metadata or []),
    )


def block(count: int, layout: Layout = LAYOUT) -> EncodedBlock:
    rng = np.random.default_rng(count)
    vectors = unit_rows(rng.standard_normal((count, layout.dims))).astype(np.float16)
    tokens = unit_rows(rng.standard_normal((count, layout.tokens, layout.dims))).astype(np.float16)
    return EncodedBlock(vectors if layout.vectors else None, tokens if layout.tokens else None)


@pytest.mark.parametrize(("tokens", "vectors"), [(4, True), (0, True), (4, False)])
def test_what_is_written_is_read(tmp_path: Path, tokens: int, vectors: bool) -> None:
    layout = replace(LAYOUT, tokens=tokens, vectors=vectors)
    odd = "caf\udce9/ü/日本.jpg"  # a name that is not UTF-8 on disk
    rows = table(["a", "bb", odd, "d"], [{"a/b.c%2E": "x"}, {}, {"size": "ü"}, {"size": "M"}])
    blocks = [block(3, layout), block(1, layout)]
    write_segment(tmp_path / "s.h5", layout, rows, blocks)
    segment = Segment(tmp_path / "s.h5")
    assert segment.layout == layout
    assert len(segment) == 4
    assert list(segment.ids) == ["a", "bb", odd, "d"]
    assert list(segment.roots) == ["/root1", "/root0", f"/root{len(odd) % 2}", "/root1"]
    assert sorted(segment.root_names) == ["/root0", "/root1"]
    columns = {name: list(column) for name, column in segment.metadata.items()}
    assert columns == {"a/b.c%2E": ["x", "", "", ""], "size": ["", "", "ü", "M"]}
    assert segment.metadata_of(0) == {"a/b.c%2E": "x"}
    assert segment.metadata_of(1) == {}
    np.testing.assert_array_equal(segment.digests, rows.digests)
    for name in ("vectors", "tokens"):
        wanted = [getattr(one, name) for one in blocks]
        found = getattr(segment, name)
        if wanted[0] is None:
            assert found is None
        else:
            np.testing.assert_array_equal(found, np.concatenate(wanted))
            assert found.flags.aligned
            assert not found.flags.writeable
    assert segment.stored is (segment.vectors if vectors else segment.tokens)


def test_an_empty_segment(tmp_path: Path) -> None:
    write_segment(tmp_path / "s.h5", LAYOUT, table([]), [])
    segment = Segment(tmp_path / "s.h5")
    assert len(segment) == 0
    assert segment.vectors is not None
    assert segment.vectors.shape == (0, DIMS)
    assert list(segment.roots) == []
    assert segment.metadata == {}


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_segment(tmp_path / name, LAYOUT, table(["x", "y"], [{"k": "v"}, {}]), [block(2)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_rows_must_be_right(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} rows were given for a segment of 2"):
        write_segment(tmp_path / "s.h5", LAYOUT, table(["x", "y"]), [block(count)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 200, 1300, 20_000])
def test_no_more_is_written_than_was_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    reserved: list[int] = []
    monkeypatch.setattr(files, "_reserve", lambda path, need: reserved.append(need))
    rng = np.random.default_rng(size)
    metadata = [{f"column {n}": rng.bytes(size // 9).hex() for n in range(9)} for _ in range(50)]
    write_segment(tmp_path / "s.h5", LAYOUT, table([str(n) for n in range(50)], metadata), [block(50)])
    assert (tmp_path / "s.h5").stat().st_size <= reserved[0]


@pytest.mark.parametrize("data", [b"", b"no hdf5", None])
def test_what_is_not_a_segment(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "s.h5"
    if data is None:
        with h5py.File(path, "w") as file:
            file["other"] = 1
    else:
        path.write_bytes(data)
    with pytest.raises(CorruptIndexError, match="cannot be read"):
        Segment(path)


def test_layouts_fit_whatever_the_name() -> None:
    assert LAYOUT.fits(replace(LAYOUT, model_name="alias"))
    assert not LAYOUT.fits(replace(LAYOUT, model="0"))
    assert LAYOUT.row_bytes == 2 * DIMS * 5


def store(file: h5py.File, name: str, **options: object) -> None:
    data = file[name][()]
    del file[name]
    file.create_dataset(name, data=data, **options)


def link_out(file: h5py.File) -> None:
    del file["vectors"]
    file["vectors"] = h5py.ExternalLink("/etc/hostname", "/x")


def store_outside(file: h5py.File) -> None:
    shape = file["digests"].shape
    del file["digests"]
    file.create_dataset("digests", shape, np.uint8, external=[("/etc/hostname", 0, shape[0] * 32)])


def store_virtually(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=file["vectors"].shape, dtype=np.float16)
    del file["vectors"]
    file.create_virtual_dataset("vectors", layout)


def link_within(file: h5py.File) -> None:
    del file["vectors"]
    file["vectors"] = h5py.SoftLink("/digests")


def nest(file: h5py.File) -> None:
    file["metadata/0/again"] = file["/"]


def shuffle_codes(file: h5py.File) -> None:
    file["roots/codes"][0] = 9


def stretch_offsets(file: h5py.File) -> None:
    file["column_names/offsets"][1] = 10**15


TAMPER: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "compressed": (partial(store, name="vectors", compression="gzip"), "compressed or in chunks"),
    "chunks": (partial(store, name="digests", chunks=(1, 32)), "compressed or in chunks"),
    "external link": (link_out, "is a link"),
    "soft link": (link_within, "is a link"),
    "external storage": (store_outside, "stored in another file"),
    "virtual": (store_virtually, "stored in another file"),
    "cycle": (nest, "nested too deeply"),
    "offsets": (stretch_offsets, "do not fit its texts"),
}


@pytest.mark.parametrize("kind", TAMPER)
def test_what_cannot_be_mapped_is_refused(tmp_path: Path, kind: str) -> None:
    """As after h5repack, or in an index that somebody else made."""
    path = tmp_path / "s.h5"
    write_segment(path, LAYOUT, table(["x", "y"], [{"k": "v"}, {}]), [block(2)])
    tamper, reason = TAMPER[kind]
    with h5py.File(path, "r+") as file:
        tamper(file)
    with pytest.raises(CorruptIndexError, match=rf"s\.h5 cannot be read: .*{reason}.*; restore it from a copy"):
        _ = Segment(path).metadata


def test_damage_within_a_column_is_met_when_it_is_read(tmp_path: Path) -> None:
    """Opening reads nothing that grows with the rows."""
    path = tmp_path / "s.h5"
    write_segment(path, LAYOUT, table(["x", "y"], [{"k": "v"}, {}]), [block(2)])
    with h5py.File(path, "r+") as file:
        shuffle_codes(file)
    segment = Segment(path)
    assert segment.roots[1] == "/root1"
    with pytest.raises(CorruptIndexError, match=r"s\.h5: column 'roots' is damaged: .*; restore the file from a copy"):
        _ = segment.roots[0]


@pytest.mark.parametrize("name", ["digests", "vectors", "tokens", "ids", "roots", "column_names"])
def test_missing_arrays_and_other_types(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.h5"
    for value in (None, "text", np.zeros((2, 3), np.int32), np.float64(1)):
        write_segment(path, LAYOUT, table(["x", "y"], [{"k": "v"}, {}]), [block(2)])
        with h5py.File(path, "r+") as file:
            del file[name]
            if value is not None:
                file[name] = value
        with pytest.raises(CorruptIndexError, match="cannot be read"):
            _ = Segment(path).metadata


@pytest.mark.parametrize("room", range(0, 100_000, 4096))
def test_hdf5_never_meets_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The file that HDF5 writes into swallows every error; it is raised when HDF5 has closed the file."""
    write, truncate = os.pwrite, os.ftruncate

    def limited(handle: int, data: bytes, place: int) -> int:
        if place + len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, place)

    monkeypatch.setattr(os, "pwrite", limited)
    monkeypatch.setattr(os, "ftruncate", lambda handle, size: truncate(handle, min(size, room)))
    with pytest.raises(DataError, match=r"disk full while writing .*s\.h5"):
        write_segment(tmp_path / "s.h5", LAYOUT, table([str(n) for n in range(600)]), [block(600)])
    assert list(tmp_path.iterdir()) == []


def test_a_write_in_pieces_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: write(handle, bytes(data)[:1000], place))
    write_segment(tmp_path / "s.h5", LAYOUT, table(["x", "y"]), [block(2)])
    assert list(Segment(tmp_path / "s.h5").ids) == ["x", "y"]


def test_hdf5_meets_a_real_limit(tmp_path: Path) -> None:
    """A file size limit makes real writes fail, as a full disk would; the message says how much is needed."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
import numpy as np
from pathlib import Path
from cir.errors import DataError
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, write_segment
from cir.testing.fakes import FakeEncoder
layout = Layout.of(FakeEncoder().card)
n = 20_000
block = EncodedBlock(np.zeros((n, layout.dims), np.float16), np.zeros((n, layout.tokens, layout.dims), np.float16))
table = RowTable([str(i) for i in range(n)], np.zeros((n, 32), np.uint8), [''] * n, {{}})
try:
    write_segment(Path({str(tmp_path / "s.h5")!r}), layout, table, [block])
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "disk full while writing" in done.stdout, done.stderr
    assert "free at least" in done.stdout
    assert list(tmp_path.iterdir()) == []
