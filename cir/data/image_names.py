"""How people name images in tables, and which image they mean.

An image is an id below a root. A name means an image if it is the end of that path, in whole parts: its id
`shoes/1.jpg`, its file name `1.jpg`, a longer `photos/shoes/1.jpg`, the absolute path. The suffix may be left out.
Back-slashes are slashes, "." and empty parts are nothing, and decomposed letters are composed ones. Another letter
case is accepted where nothing fits exactly.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from functools import cached_property

from cir.images import ImageFile

Parts = tuple[str, ...]


class ImageNames:
    """The images of a gallery by everything they may be called."""

    def __init__(self, files: Sequence[ImageFile]) -> None:
        """Take the images' ids, and their roots for longer names."""
        self._files = files
        self._exact = _View(files, str, stem=False)

    def find(self, name: str) -> set[str]:
        """Ids of the images that a name means: none, one, or several if it is ambiguous."""
        readings = _readings(name)
        return set(
            self._exact.find(readings)
            or self._stems.find(readings)
            or self._folded.find(readings)
            or self._folded_stems.find(readings)
            or (self._exact.find([_parts(os.path.realpath(name))]) if name.startswith("/") and "\0" not in name else ())
        )

    def common_prefix(self, names: Iterable[str]) -> Parts | None:
        """The one folder below which names are ids; None if there is none, or names below another folder are ids too.

        A table made elsewhere may say `images/1.jpg` where the gallery's folder has another name.
        """
        votes = Counter(
            parts[:start]
            for name in names
            for parts in (_readings(name)[-1],)
            for start in range(1, len(parts))
            if parts[start:] in self._exact.ids
        )
        return next(iter(votes)) if len(votes) == 1 else None

    def below(self, prefix: Parts, name: str) -> str | None:
        """The id of the image that a name means below `common_prefix`."""
        parts = _readings(name)[-1]
        if parts[: len(prefix)] != prefix:
            return None
        file = self._exact.ids.get(parts[len(prefix) :])
        return file.id if file else None

    # Made when a name needs them: hardly a table does.

    @cached_property
    def _stems(self) -> _View:
        return _View(self._files, str, stem=True)

    @cached_property
    def _folded(self) -> _View:
        return _View(self._files, str.casefold, stem=False)

    @cached_property
    def _folded_stems(self) -> _View:
        return _View(self._files, str.casefold, stem=True)


class _View:
    """Images by ids and by what ids end in, in one letter case, with or without suffix."""

    def __init__(self, files: Sequence[ImageFile], fold: Callable[[str], str], stem: bool) -> None:
        self._fold = fold
        self.ids: dict[Parts, ImageFile] = {}
        self._ends: dict[Parts, set[str]] = defaultdict(set)
        self._exact: dict[Parts, set[str]] = defaultdict(set)
        for file in files:
            name = posixpath.splitext(file.id)[0] if stem else file.id
            parts = tuple(fold(name).split("/"))
            self.ids[parts] = file
            self._exact[parts].add(file.id)
            for start in range(1, len(parts)):
                self._ends[parts[start:]].add(file.id)

    def find(self, readings: Iterable[Parts]) -> Set[str]:
        """Ids that the first fitting reading of a name means."""
        return next(filter(None, map(self._find, readings)), frozenset())

    def _find(self, parts: Parts) -> Set[str]:
        parts = tuple(map(self._fold, parts))
        if found := self._exact.get(parts) or self._ends.get(parts):
            return found
        for start in range(1, len(parts)):
            file = self.ids.get(parts[start:])
            if file is not None and self._root(file)[-start:] == parts[:start]:
                return self._exact[parts[start:]]
        return frozenset()

    def _root(self, file: ImageFile) -> Parts:
        return tuple(map(self._fold, _parts(file.root)))


def _readings(name: str) -> list[Parts]:
    """A name as it is, and with back-slashes as slashes if it has any."""
    return [_parts(name), *([_parts(name.replace("\\", "/"))] if "\\" in name else [])]


def _parts(path: str) -> Parts:
    """The parts of a path, without "", "." and what leads out of the working folder."""
    clean = posixpath.normpath(unicodedata.normalize("NFC", path))
    return tuple(part for part in clean.split("/") if part not in ("", ".", ".."))
