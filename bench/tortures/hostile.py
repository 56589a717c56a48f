"""A folder of pictures that somebody wants to harm the builder with: it is indexed all the same.

Good pictures are searched afterwards, the others are listed, in bounded time and memory.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tortures.cases import Arena, Case, Tally
from tortures.processes import Bounds
from tortures.states import png
from tortures.steps import Step, cir

SECONDS, MEGABYTES = 120, 1500
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/etc/passwd) run\nshowpage\n%%EOF\n"


def torture(arena: Arena, tally: Tally, count: int) -> None:
    """Each case has all hostile files, with other damage."""
    for number in range(count):
        with arena.case(tally, number) as case:
            if case:
                _torture(case)


def _torture(case: Case) -> None:
    photos, index = case.folder / "photos", case.folder / "x.index"
    good, hostile = _write(photos, case.rng)
    case.did.append(f"a folder of {len(hostile)} hostile files and {len(good)} good pictures")
    step = Step("build", {"photos": str(photos), "index": str(index)})
    ended = case.run(step, Bounds(seconds=SECONDS), codes=(0,))
    case.tally.counts["most memory (MB)"] = max(case.tally.counts["most memory (MB)"], ended.megabytes)
    if ended.code != 0:
        case.found("lost", f"the build does not finish: {ended}")
        return
    if ended.megabytes > MEGABYTES:
        case.found("hang", f"the build takes {ended.megabytes:,} MB")
    asked = case.run(Step("ask", {"index": str(index)}), codes=(0,))
    if asked.code != 0:
        return
    ids = set(asked.json["metadata"])
    for name in sorted(good - ids):
        case.found("lost", f"a good picture is not indexed: {name!r}")
    skipped = [json.loads(line) for line in (index / "skipped.jsonl").read_text().splitlines()]
    told = [f"{line.get('id')} {line.get('reason')}" for line in skipped]
    for name in sorted(hostile):
        if any(image_id.endswith(name) for image_id in ids):
            case.count("hostile files indexed")
        elif any(name in line for line in told):
            case.count("hostile files listed")
        else:
            case.found("unclear", f"neither indexed nor listed: {name!r}")
    case.verify(index, after="the build")
    for command in (cir("info", index), step):
        case.run(command, Bounds(seconds=SECONDS), codes=(0,))


def _write(folder: Path, rng: random.Random) -> tuple[set[str], set[str]]:
    """Write the files; returns ids that must be indexed, and names that must be indexed or listed."""
    folder.mkdir(parents=True)
    good = {"good.png", "a/b/good.png", "new\nline.png", "ünïcödé.png"}
    for name in good:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(rng.randrange(1000, 2000)))
    picture = _jpeg(rng)
    writers: dict[str, Callable[[Path], object]] = {
        "pipe.jpg": os.mkfifo,
        "zero.jpg": lambda path: path.symlink_to("/dev/zero"),
        "gone.jpg": lambda path: path.symlink_to("nowhere.jpg"),
        "loop.jpg": lambda path: path.symlink_to("loop.jpg"),
        "sparse.jpg": lambda path: _sparse(path, 3 << 30),
        "postscript.jpg": lambda path: path.write_bytes(EPS),
        "empty.jpg": lambda path: path.write_bytes(b""),
        "text.jpg": lambda path: path.write_text("no picture"),
        "cut.jpg": lambda path: path.write_bytes(picture[: rng.randrange(20, len(picture) // 2)]),
        "noise.png": lambda path: path.write_bytes(rng.randbytes(5000)),
        "huge.png": lambda path: path.write_bytes(_huge_png()),
        "cut.png": lambda path: path.write_bytes(png(1)[: rng.randrange(9, 60)]),
        "broken.zip": lambda path: path.write_bytes(rng.randbytes(1000)),
        "cut.zip": lambda path: path.write_bytes(_zip({"x.jpg": picture})[:-30]),
    }
    for name, write in writers.items():
        write(folder / name)
    zips: dict[str, dict[str, bytes | int]] = {
        "bomb.zip": {"bomb.jpg": 1 << 30, "kept.png": png(2000)},
        "up.zip": {"../up.png": png(2001), "/abs.png": png(2002), "inside.png": png(2003)},
    }
    for name, members in zips.items():
        (folder / name).write_bytes(_zip(members))
    return {*good, "bomb.zip/kept.png", "up.zip/inside.png"}, {*writers, "bomb.jpg", "up.png", "abs.png"}


def _jpeg(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 64), rng.randbytes(64 * 64 * 3)).save(buffer, "JPEG")
    return buffer.getvalue()


def _zip(members: dict[str, bytes | int]) -> bytes:
    """A zip of some members; a number stands for that many zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(data >> 20 if isinstance(data, int) else 0):
                    file.write(bytes(1 << 20))
                file.write(b"" if isinstance(data, int) else data)
    return buffer.getvalue()


def _huge_png() -> bytes:
    """A picture of 60,000 x 60,000 pixels in a few kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
