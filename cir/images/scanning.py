"""Which images there are under some paths, and what is passed over: files are listed, not opened."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import overload

from cir import given
from cir.errors import DataError, MissingDependencyError, UsageError
from cir.images import archives, parquets
from cir.images.archives import PARQUET_SUFFIX, suffix_of
from cir.images.decode import reason_of
from cir.images.files import HEIC_SUFFIXES, SUFFIXES, UNREADABLE, ImageFile, has_suffix
from cir.images.names import canonical_id, shown
from cir.images.remote import is_object, objects_below
from cir.images.tars import COMPRESSED
from cir.places import is_url, url_of

# What other programs leave among photos, by lower-case name.
_LITTER = {name.lower(): f"files in {name}" for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX")}
_EXCLUDED = "files excluded on request"
_NEEDS_PYARROW = "parquet files (pip install 'cir-engine[parquet]' reads them)"
_NEEDS_HEIF = "HEIC pictures (pip install 'cir-engine[heic]' reads them)"


@dataclass(frozen=True)
class Scan(Sequence[ImageFile]):
    """The images that a scan found, by id, and what it passed over.

    Attributes:
        images: the images.
        passed_over: kind in plain words -> number of files: of other suffixes, hidden, excluded, ...
        unusable: (name, reason) of what should be an image but cannot become one: members of an archive without a
            usable name, broken archives, folders that cannot be listed, a second file of the same name.
    """

    images: tuple[ImageFile, ...]
    passed_over: Mapping[str, int] = field(default_factory=dict)
    unusable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, place: int) -> ImageFile: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[ImageFile, ...]: ...
    def __getitem__(self, place: int | slice) -> ImageFile | tuple[ImageFile, ...]:
        return self.images[place]


def scan(paths: str | Path | Iterable[str | Path], *, exclude: str | Iterable[str] = ()) -> Scan:
    """All image files under folders (recursive), inside archives, or given one by one; sorted by id.

    Files are chosen by suffix. Archives are zips, tars and parquet files; below a folder only those parquet files count
    that hold the pictures themselves, and not where they are. Links to folders are followed once. Hidden files are
    passed over, as are thumbnails and deleted files that NAS and operating systems keep.

    Args:
        paths: folders, archives and image files, or URLs of such in an object store; a root is its real path, however
            it is spelled.
        exclude: patterns such as "*.gif", "thumbs" or "2019/*.png"; a file is left out if one matches its path below
            the folder given, or the name of the file or of a folder on the way.

    Raises:
        UsageError: no path given, or two paths whose images would get the same ids.
        DataError: a path that does not exist, an archive that is broken, or a folder that cannot be listed.
        MissingDependencyError: a parquet file is given, and pyarrow is not installed.
        StoreError: an object store cannot be reached, or refuses.
    """
    places = given.paths(paths, "paths")
    if not places:
        raise UsageError("no images given; name a folder, an archive or image files")
    globs = tuple(glob.removeprefix("./").rstrip("/") for glob in given.strings(exclude, "exclude"))
    if not all(globs):
        raise UsageError("an empty pattern to exclude; write one such as '*.gif' or thumbs")
    roots = list(dict.fromkeys(map(_real, places)))
    alone = len(roots) == 1 or all(has_suffix(root, SUFFIXES) and _is_file(root) for root in roots)
    images: dict[str, ImageFile] = {}
    passed_over: Counter[str] = Counter()
    unusable: dict[tuple[str, str], None] = {}
    for root in roots:
        walk = (_StoreWalk if is_url(root) else _Walk)(root, alone, globs)
        walk.run()
        for image in walk.images.values():
            other = images.setdefault(image.id, image)
            if (other.path, other.member) != (image.path, image.member):
                both = f"{shown(other.path)} and {shown(image.path)}"
                raise UsageError(f"two images would have the id {shown(image.id)}: in {both}; rename one")
        passed_over.update(walk.passed_over)
        unusable.update(dict.fromkeys(walk.unusable))
    return Scan(
        tuple(images[key] for key in sorted(images)), dict(sorted(passed_over.items())), tuple(sorted(unusable))
    )


def _real(path: str | Path) -> str:
    """The real path of a root. A link to a file keeps its own name, which may have the suffix that its target lacks."""
    if is_url(path):
        return url_of(path)
    spelled = os.path.abspath(os.path.expanduser(path)) if os.fspath(path) else ""
    if not os.path.exists(spelled):
        raise DataError(f"no such file or folder: {shown(str(path))}; check the path")
    real = os.path.realpath(spelled)
    if os.path.isdir(spelled) or (suffix_of(spelled) and suffix_of(spelled) == suffix_of(real)):
        return real
    return os.path.join(os.path.realpath(os.path.dirname(spelled)), os.path.basename(spelled))


def kind_of(name: str) -> str | None:
    """Why a file of that name is passed over: the kind it is counted as; None for an image or an archive."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in HEIC_SUFFIXES:
        return None if find_spec("pillow_heif") else _NEEDS_HEIF
    if suffix in SUFFIXES or suffix in archives.ARCHIVES:
        return None
    if not suffix:
        return "files without a suffix"
    return f"{suffix} files" if re.fullmatch(r"\.[a-z0-9_+-]{1,12}", suffix) else "files of other suffixes"


def _hidden(name: str) -> str | None:
    """The kind of a file or folder that is passed over with all it holds, by its own name."""
    if name.startswith("._"):
        return "._ files of macOS"
    return _LITTER.get(name.lower()) or ("hidden files" if name.startswith(".") else None)


class _Walk:
    """One root: collects its images and counts the rest.

    Args:
        root: real path of a folder, an archive or an image file.
        alone: whether ids are relative to the root itself; else they start with its name.
        exclude: patterns.
    """

    def __init__(self, root: str, alone: bool, exclude: tuple[str, ...]) -> None:
        self.root, self.exclude = root, exclude
        whole = alone and (_is_place(root) or bool(suffix_of(root)))
        self.base, self.prefix = (root, "") if whole else (os.path.dirname(root), os.path.basename(root) + "/")
        self.images: dict[str, ImageFile] = {}
        self.passed_over: Counter[str] = Counter()
        self.unusable: list[tuple[str, str]] = []

    def run(self) -> None:
        if _is_place(self.root):
            self._folders()
        elif archive := suffix_of(self.root)[1:]:
            try:
                self._archive(self.root, "")
            except UNREADABLE as error:
                raise DataError(
                    f"{shown(self.root)}: not a readable {archive}: {_why(error)}; repair or remove it"
                ) from None
        elif self.root.lower().endswith(COMPRESSED):
            raise DataError(f"{shown(self.root)}: a compressed tar cannot be read; unpack it, and make a plain tar")
        elif not has_suffix(self.root, SUFFIXES):
            suffixes = ", ".join(sorted(SUFFIXES))
            raise DataError(f"neither an image, a folder nor an archive: {shown(self.root)}; images end in {suffixes}")
        elif kind := kind_of(self.root):
            raise DataError(f"{shown(self.root)}: one of the {kind}")
        else:
            self.prefix = ""
            self._take(os.path.basename(self.root), self.root)

    def _folders(self) -> None:
        """Everything below the root. Links wait until all real folders are known: a folder keeps its own name."""
        folders, links = [(self.root, "")], list[tuple[str, str]]()
        entered = set()
        while folders or links:
            place, name = folders.pop() if folders else links.pop(0)
            try:
                state = os.stat(place)
                if (state.st_dev, state.st_ino) in entered:
                    self.passed_over["folders reached a second time through a link"] += 1
                    continue
                entered.add((state.st_dev, state.st_ino))
                with os.scandir(place) as listing:
                    # Of two files whose names are one name, the one that is stored in the form of ids comes first.
                    entries = sorted(listing, key=lambda entry: (not _composed(entry.name), entry.name))
            except OSError as error:
                if not name:
                    raise DataError(
                        f"{shown(self.root)}: cannot be listed: {_why(error)}; check its permissions"
                    ) from None
                self.unusable.append((self.prefix + name, f"this folder cannot be listed: {_why(error)}"))
                continue
            for entry in entries:
                path, inner = os.path.join(place, entry.name), name + entry.name
                kind = _hidden(entry.name) or self._excluded(inner)
                if not _is_folder(entry):
                    self._file(path, inner, kind)
                elif kind:
                    self.passed_over[kind] += sum(len(files) for _, _, files in os.walk(path))
                else:
                    (links if entry.is_symlink() else folders).append((path, inner + "/"))
            links.sort(key=lambda link: link[1])

    def _file(self, path: str, name: str, kind: str | None) -> None:
        kind = kind or kind_of(name)
        if kind:
            self.passed_over[kind] += 1
        elif suffix := suffix_of(name):
            try:
                if suffix == PARQUET_SUFFIX and not _holds_pictures(path):
                    self.passed_over[f"{suffix} files"] += 1
                else:
                    self._archive(path, name + "/")
            except MissingDependencyError:
                self.passed_over[_NEEDS_PYARROW] += 1
            except UNREADABLE as error:
                self.unusable.append((self.prefix + name, f"not a readable {suffix[1:]}: {_why(error)}"))
        else:
            self._take(name, path)

    def _archive(self, path: str, name: str) -> None:
        listed = archives.directory(path)
        rows = suffix_of(path) == PARQUET_SUFFIX  # whose names need no suffix
        for member, reason in (*((member, None) for member in listed.members), *listed.refused):
            inner = name + member
            hidden = None if rows else next(filter(None, map(_hidden, _parts(member))), None)
            kind = hidden or self._excluded(inner) or (None if rows else kind_of(member))
            if not kind and not rows and suffix_of(member):
                kind = "archives inside archives"
            if kind:
                self.passed_over[kind] += 1
            elif reason:
                self.unusable.append((self.prefix + inner, reason))
            else:
                self._take(inner, path, member)

    def _take(self, name: str, path: str, member: str | None = None) -> None:
        image = ImageFile(canonical_id(self.prefix + name), self.base, path, member)
        other = self.images.setdefault(image.id, image)
        if other is not image:
            self.unusable.append(
                (self.prefix + name, f"the same name as {shown(other.path)}, in another Unicode form; rename it")
            )

    def _excluded(self, name: str) -> str | None:
        names = (name, *_parts(name))
        return _EXCLUDED if any(fnmatchcase(part, glob) for glob in self.exclude for part in names) else None


def _holds_pictures(path: str) -> bool:
    columns = parquets.columns_of(path)
    return columns is not None and columns.stored


class _StoreWalk(_Walk):
    """A root in an object store: objects are listed, none is opened but the directories of zips."""

    def _folders(self) -> None:
        keys = [info.key for info in objects_below(self.root)]
        if not keys:
            raise DataError(f"there is nothing at {shown(self.root)}; check the URL")
        if self.base != self.root and self.root.count("/") == 2:  # ids would be relative to no place
            raise UsageError(f"{shown(self.root)}: a whole bucket is indexed alone; name a place in it")
        for key in sorted(keys, key=lambda key: (not _composed(key), key)):
            parts = key.split("/")
            whole = ["/".join(parts[: number + 1]) for number in range(len(parts))]
            kinds = (_hidden(part) or self._excluded(name) for part, name in zip(parts, whole, strict=True))
            self._file(f"{self.root}/{key}", key, next(filter(None, kinds), None))


def _is_place(root: str) -> bool:
    """Whether a root is a folder, or a place of objects rather than an object itself. Raises StoreError."""
    return not is_object(root) if is_url(root) else os.path.isdir(root)


def _is_file(root: str) -> bool:
    return is_object(root) if is_url(root) else os.path.isfile(root)


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _composed(name: str) -> bool:
    return canonical_id(name) == name


def _why(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or reason_of(error)
