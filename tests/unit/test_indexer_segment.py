"""Segment files, and the check of a whole index."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cir.errors import CorruptIndexError, IndexFormatError
from cir.indexer.reading.verify import verify
from cir.indexer.storage import segment
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.manifest import read_manifest
from cir.indexer.storage.segment import Layout, RowBlock, Segment, write_segment
from cir.testing.fakes import DIMS, FakeEncoder, make_index, random_rows, unit_rows

LAYOUT = Layout.of(FakeEncoder().card)


def block(ids: list[str], metadata: list[dict[str, str]] | None = None, layout: Layout = LAYOUT) -> RowBlock:
    rng = np.random.default_rng(len(ids))
    return RowBlock(
        ids=ids,
        digests=rng.integers(0, 256, (len(ids), 32), dtype=np.uint8),
        roots=[f"/root{len(image_id) % 2}" for image_id in ids],
        metadata=metadata or [{}] * len(ids),
        vectors=unit_rows(rng.standard_normal((len(ids), layout.dims))).astype(np.float16) if layout.vectors else None,
        tokens=unit_rows(rng.standard_normal((len(ids), layout.tokens, layout.dims))).astype(np.float16)
        if layout.tokens
        else None,
    )


@pytest.mark.parametrize(("tokens", "vectors"), [(4, True), (0, True), (4, False)])
def test_what_is_written_is_read(tmp_path: Path, tokens: int, vectors: bool) -> None:
    layout = replace(LAYOUT, tokens=tokens, vectors=vectors)
    odd = "caf\udce9/ü/日本.jpg"  # a name that is not UTF-8 on disk
    blocks = [
        block(["a", "bb", odd], [{"a/b.c%2E": "x"}, {}, {"size": "ü"}], layout),
        block(["d"], [{"size": "M"}], layout),
    ]
    write_segment(tmp_path / "s.h5", layout, 4, blocks)
    segment = Segment(tmp_path / "s.h5")
    assert segment.layout == layout
    assert len(segment) == 4
    assert segment.ids == ["a", "bb", odd, "d"]
    assert segment.roots == ["/root1", "/root0", f"/root{len(odd) % 2}", "/root1"]
    assert segment.metadata == {"a/b.c%2E": ["x", "", "", ""], "size": ["", "", "ü", "M"]}
    assert segment.metadata_of(0) == {"a/b.c%2E": "x"}
    assert segment.metadata_of(1) == {}
    np.testing.assert_array_equal(segment.digests, np.concatenate([one.digests for one in blocks]))
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
    write_segment(tmp_path / "s.h5", LAYOUT, 0, [])
    segment = Segment(tmp_path / "s.h5")
    assert len(segment) == 0
    assert segment.vectors is not None
    assert segment.vectors.shape == (0, DIMS)
    assert segment.roots == []
    assert segment.metadata == {}


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_segment(tmp_path / name, LAYOUT, 2, [block(["x", "y"], [{"k": "v"}, {}])])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_number_of_rows_must_be_right(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 rows were given for a segment of 2"):
        write_segment(tmp_path / "s.h5", LAYOUT, 2, [block(["x"])])
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (RuntimeError("Unable to close (errno = 28, error message = 'No space left')"), errno.ENOSPC),
        (OSError(errno.EACCES, "no"), errno.EACCES),
        (RuntimeError("something else"), errno.EIO),
    ],
)
def test_hdf5_errors_keep_their_number(error: Exception, number: int) -> None:
    with pytest.raises(OSError, match=r".") as caught, segment._hdf5_errors():
        raise error
    assert caught.value.errno == number


def test_hdf5_meets_a_real_limit(tmp_path: Path) -> None:
    """A file size limit makes HDF5's own writes fail, as a full disk would."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
import numpy as np
from pathlib import Path
from cir.errors import DataError
from cir.indexer.storage.segment import RowBlock, Layout, write_segment
from cir.testing.fakes import FakeEncoder
layout = Layout.of(FakeEncoder().card)
n = 2000
block = RowBlock([str(i) for i in range(n)], np.zeros((n, 32), np.uint8), [''] * n, [{{}}] * n,
              np.zeros((n, layout.dims), np.float16), np.zeros((n, layout.tokens, layout.dims), np.float16))
try:
    write_segment(Path({str(tmp_path / "s.h5")!r}), layout, n, [block])
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "disk full while writing" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def index(tmp_path: Path) -> Path:
    rows = random_rows(["a", "b", "c"], 1, tokens=4)
    return make_index(tmp_path / "x.index", [rows, random_rows(["d"], 2, tokens=4)], 4)


def gallery_file(index: Path) -> Path:
    return IndexFolder(index).gallery("000001")


def test_a_sound_index(index: Path) -> None:
    assert verify(index) == []


def test_verify_of_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexFormatError):
        verify(tmp_path)


def test_verify_reports_a_damaged_pointer(index: Path) -> None:
    IndexFolder(index).current.write_text("garbage")
    assert len(verify(index)) == 1


def test_every_flipped_byte_is_found(index: Path) -> None:
    path = gallery_file(index)
    data = path.read_bytes()
    for place in range(0, len(data), 997):
        path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        assert any("contradicts its digest" in problem for problem in verify(index)), place


def test_verify_reports_a_lost_segment(index: Path) -> None:
    gallery_file(index).unlink()
    assert [problem for problem in verify(index) if "is missing" in problem]


def test_verify_reports_norms_and_ids_and_counts(tmp_path: Path) -> None:
    good, bad = random_rows(["a", "b"], 1), random_rows(["b", "c", "d"], 2)
    assert bad.vectors is not None
    bad.vectors[1] = np.nan
    bad.vectors[2] *= 2
    good.deleted = (7,)
    index = make_index(tmp_path / "x.index", [good, bad])
    problems = verify(index)
    assert len(problems) == 3
    assert any("vectors of 2 images are not of unit length, first c" in problem for problem in problems)
    assert "b: 2 live rows have this id" in problems
    assert any("listed as deleted that do not exist" in problem for problem in problems)


def test_verify_reports_a_manifest_that_says_otherwise(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(IndexFolder(index))
    first = replace(manifest.segments[0], rows=5, tokens=2, space="other")
    lying = replace(manifest, segments=(first,), deleted={"000009": (1,)})
    monkeypatch.setattr("cir.indexer.reading.verify.read_manifest", lambda path: lying)
    problems = " ".join(verify(index))
    for text in (
        "has [3] rows instead of 5",
        "holds other vectors than the manifest describes",
        "does not describe",
        "segment 000009, which does not exist",
    ):
        assert text in problems


def test_verify_reports_arrays_of_other_lengths(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment(gallery_file(index))
    segment.ids = segment.ids[:2]
    monkeypatch.setattr("cir.indexer.reading.verify.open_segment", lambda index, entry: segment)
    assert any("have 3 rows for 2 ids" in problem for problem in verify(index))
