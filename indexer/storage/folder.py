"""Every path of an index folder, on one page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cir.errors import CorruptIndexError
from cir.files import is_temporary, parse_json, read_regular

GALLERY = "gallery.h5"
QUARANTINE = "quarantine"
MARKS = "marks.jsonl"
LARGEST_JSON = 1 << 28  # bytes of a manifest or mapping that are read at most


@dataclass(frozen=True)
class IndexFolder:
    """The paths of an index.

        CURRENT                     name and digest of the live manifest
        manifests/000001.json       one per generation that is kept
        segments/000001/gallery.h5  vectors, tokens, ids, metadata; derived files beside it
        mappings/NAME.json          how queries of one model reach vectors of another; NAME.safetensors
        questions.zip               judged questions and their photos
        marks.jsonl                 hits that people have judged right or wrong
        skipped.jsonl               images that the last build could not use
        retrieved.log               ids retrieved from older spaces
        backfill.json               what the regression guard of a backfill has measured
        quarantine/                 damaged files that a repair has put aside; lost.jsonl: what was lost with them
        work/                       partial output of a running or interrupted build
        work/segments/000001.json   what a build that is cut into segments has made of the photos of one
        LOCK                        held by the writer

    Attributes:
        root: the index folder.
    """

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    @property
    def current(self) -> Path:
        """Names the live manifest; replaced when a generation is published."""
        return self.root / "CURRENT"

    def manifest(self, generation: int) -> Path:
        """The manifest of a generation."""
        return self.manifests / f"{generation:06d}.json"

    @property
    def manifests(self) -> Path:
        """Folder of manifests."""
        return self.root / "manifests"

    @property
    def segments(self) -> Path:
        """Folder of segment folders."""
        return self.root / "segments"

    def gallery(self, segment: str) -> Path:
        """The file of a segment."""
        return self.segments / segment / GALLERY

    @property
    def mappings(self) -> Path:
        """Folder of mapping files."""
        return self.root / "mappings"

    @property
    def questions(self) -> Path:
        """Judged questions and their photos."""
        return self.root / "questions.zip"

    @property
    def skipped(self) -> Path:
        """Images that the last build could not use."""
        return self.root / "skipped.jsonl"

    @property
    def usage(self) -> Path:
        """Ids retrieved from older spaces."""
        return self.root / "retrieved.log"

    @property
    def guard(self) -> Path:
        """State of the regression guard of a backfill."""
        return self.root / "backfill.json"

    @property
    def work(self) -> Path:
        """Partial output of a running or interrupted build."""
        return self.root / "work"

    @property
    def lock(self) -> Path:
        """Held by the writer."""
        return self.root / "LOCK"


def checked(folder: IndexFolder, path: Path) -> Path:
    """A path of an index, after a check that no link leads it out of the folder. Raises CorruptIndexError."""
    inside = os.path.realpath(folder.root)
    if os.path.commonpath([inside, os.path.realpath(path)]) != inside:
        raise CorruptIndexError(f"{path} is a link that leads out of the index; put the file itself there")
    return path


def way_out(folder: IndexFolder) -> str:
    """What to do about a damaged file of an index."""
    return f"restore it from a copy, or run `cir repair {folder}`"


def read_file(folder: IndexFolder, path: Path, limit: int = LARGEST_JSON) -> bytes:
    """The bytes of a file of an index: a regular one, of at most `limit` bytes.

    Raises:
        CorruptIndexError: the file is missing, cannot be read, or lies elsewhere.
    """
    try:
        return read_regular(checked(folder, path), limit)
    except OSError as error:
        raise CorruptIndexError(f"{path} cannot be read: {error.strerror or error}; {way_out(folder)}") from None


def has_lost_pointer(folder: IndexFolder) -> bool:
    """Whether generations were published here, but nothing says which one is live.

    A first build that is killed leaves encoded parts, and at most one segment and its own generation; one that is cut
    into segments leaves some of those that it has planned. Whatever else is there was published.
    """
    if folder.current.is_file():
        return False
    manifests, segments = numbered(folder.manifests, ".json"), numbered(folder.segments)
    working = folder.work.is_dir() and any(folder.work.iterdir())
    later = (
        folder.mappings,
        folder.questions,
        folder.root / MARKS,
        folder.usage,
        folder.guard,
        folder.root / QUARANTINE,
    )
    planned = planned_segments(folder)
    first = (
        all(int(path.stem) == 1 for path in manifests)
        and all(int(path.stem) == 1 or int(path.stem) in planned for path in segments)
        and not any(path.exists() for path in later)
        and all(file.name == GALLERY for path in segments for file in path.glob("[!.]*"))
    )
    held = bool(manifests) or any(folder.gallery(path.name).exists() for path in segments)
    # Once more: a first build may have published meanwhile, and removed its parts.
    return held and not (working and first) and not folder.current.is_file()


def records(folder: IndexFolder) -> Path:
    """Folder of the records of segments that an unfinished build has made."""
    return folder.work / "segments"


def record(folder: IndexFolder, segment: str) -> Path:
    """The record of such a segment."""
    return records(folder) / f"{segment}.json"


def planned_segments(folder: IndexFolder) -> range:
    """The numbers that an unfinished build has given to its segments, whether they are there yet or not."""
    try:
        plan = parse_json(read_regular(record(folder, "plan"), LARGEST_JSON))
        return range(int(plan["first"]), int(plan["last"]) + 1)
    except (OSError, ValueError, KeyError, TypeError):
        return range(0)


def is_index(path: Path) -> bool:
    """Whether a folder holds a published index."""
    return IndexFolder(path).current.is_file()


def foreign_files(folder: IndexFolder) -> list[str]:
    """Names in a folder that no index has."""
    known = {
        path.name
        for path in (
            *(folder.current, folder.manifests, folder.segments, folder.mappings, folder.questions, folder.skipped),
            *(folder.root / MARKS, folder.usage, folder.guard, folder.root / QUARANTINE, folder.work, folder.lock),
        )
    }
    names = (path.name for path in folder.root.iterdir())
    return sorted(name for name in names if name not in known and not is_temporary(name))


def numbered(folder: Path, suffix: str = "") -> list[Path]:
    """Files or folders named by a number; copies that people make, such as `000001 (1).json`, are left out."""
    return [path for path in folder.glob("*") if path.stem.isdecimal() and path.suffix == suffix]
