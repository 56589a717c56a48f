"""Which photos a study without judged questions reads: those that are where they were indexed, or those given anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from cir.arrays import Stored
from cir.errors import DataError, MissingImageError
from cir.images import ImageFile, scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.stored_image import StoredImage
from cir.indexer.writing.pipeline import Photo


class StoredPhoto(Photo, Protocol):
    """A photo and what an index holds of it."""

    @property
    def stored(self) -> Stored:
        """(D,) the stored vector, or (T, D) the tokens without one."""

    @property
    def metadata(self) -> dict[str, str]:
        """Column -> value."""


@dataclass(frozen=True)
class GivenPhoto:
    """An image of an index whose photo is given anew: the index has only its vector, or the photo has moved.

    Attributes:
        image: what the index holds.
        file: the photo.
    """

    image: StoredImage
    file: ImageFile

    @property
    def id(self) -> str:
        """The id of the image."""
        return self.image.id

    @property
    def stored(self) -> Stored:
        """(D,) the stored vector, or (T, D) the tokens without one."""
        return self.image.stored

    @property
    def metadata(self) -> dict[str, str]:
        """Column -> value."""
        return self.image.metadata

    def read(self) -> bytes:
        """The bytes of the photo. Raises MissingImageError if it is not the one that was indexed, where that is known.

        An imported vector says nothing about its photo, so that there the name must do.
        """
        data = self.file.read()
        if self.image.root and hashlib.sha256(data).digest() != self.image.digest:
            raise MissingImageError(f"{self.id}: {self.file.id} is not the photo that was indexed")
        return data


@dataclass(frozen=True)
class GivenPhotos:
    """Photos of a folder that belong to images of an index.

    Attributes:
        by_id: id -> photo.
        others: number of photos that belong to none.
    """

    by_id: Mapping[str, ImageFile]
    others: int

    @classmethod
    def find(cls, folder: Path, gallery: Gallery) -> GivenPhotos:
        """Match the photos below a folder with an index: a path below it is an id, or its name, with ending or without.

        Raises:
            DataError: no photo is one of the index; or the folder cannot be read.
        """
        found: dict[str, ImageFile] = {}
        photos = scan([folder])
        for photo in photos:
            path = PurePosixPath(photo.id)
            forms = (photo.id, str(path.with_suffix("")), path.name, path.stem)
            name = next((form for form in forms if form in gallery), None)
            if name is not None:
                found.setdefault(name, photo)
        if not found:
            raise DataError(
                f"{folder}: none of its {len(photos):,} photos is named as an image of {gallery.folder}; ids look like "
                f"{next(iter(gallery.ids), '')!r}"
            )
        return cls(found, len(photos) - len(found))


def draw(
    gallery: Gallery, members: Sequence[str], given: GivenPhotos | None, count: int, rng: np.random.Generator
) -> list[StoredPhoto]:
    """At most `count` images of a space that have a photo, drawn at random; by ascending id."""
    chosen: list[StoredPhoto] = []
    for photo in _with_photo(gallery, [members[place] for place in rng.permutation(len(members))], given):
        if len(chosen) == count:
            break
        chosen.append(photo)
    return sorted(chosen, key=lambda photo: photo.id)


def _with_photo(gallery: Gallery, ids: Iterable[str], given: GivenPhotos | None) -> Iterable[StoredPhoto]:
    for image_id in ids:
        image = gallery.image(image_id)
        if given is not None:
            if image_id in given.by_id:
                yield GivenPhoto(image, given.by_id[image_id])
            continue
        try:
            image.file  # noqa: B018  # only whether it is there: reading all of them would take too long
        except (DataError, OSError):
            continue
        yield image
