"""Pictures and index in an object store, encoded by processes that share nothing but the store."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cir.objects import open_store
from cir.testing.fakes import folder_of
from cir.testing.store_server import is_installed, store_server

pytest.importorskip("ray")
pytestmark = pytest.mark.long

PROGRAM = """
import sys
from cir.cluster.encoding import RaySpread
from cir.cluster.session import joined
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.fetching import live_manifest
from cir.indexer.writing.build import BuildOptions, build_index
from cir.testing.fakes import FakeEncoder

source, one, many = sys.argv[1:]
options = BuildOptions(batch_size=4, segment_rows=8)
stopped = FakeEncoder(after=12)
try:  # a build that ends in its second segment
    build_index(source, many, stopped, options=BuildOptions(workers=1, batch_size=4, segment_rows=8))
except KeyboardInterrupt:
    pass
with joined("local", 2) as ray:
    report = build_index(source, many, FakeEncoder(), options=options, spread=RaySpread(ray, FakeEncoder, 2, 1))
assert (report.total, report.resumed) == (40, 8), report
build_index(source, one, FakeEncoder(), options=options)
files = [[entry.files["gallery.h5"].sha256 for entry in live_manifest(place).segments] for place in (one, many)]
assert files[0] == files[1]
assert len(files[0]) == 5
assert list(Gallery.open(many).ids) == [image.id for image in scan(source)]
assert verify(many) == []
"""


def test_from_a_store_into_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed():
        pytest.skip("needs obstore and moto[server], of the extra `dev`")
    photos = sorted(folder_of(tmp_path / "photos", 40).iterdir())
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for path in photos[:30]:
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    with store_server() as server:
        for name, value in {**server.environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        bucket = server.make_bucket("pictures")
        store = open_store(bucket)
        store.upload("photos/shard.tar", tmp_path / "shard.tar")
        for path in photos[30:]:
            store.upload(f"photos/{path.name}", path)
        words = [f"{bucket}/photos", f"{bucket}/one.index", f"{bucket}/many.index"]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert not list(store.listed("many.index/work"))
