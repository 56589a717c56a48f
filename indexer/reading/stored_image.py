"""One image of a gallery: what the index stores of it, and where its photo is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cir.arrays import Floats, Stored
from cir.errors import MissingImageError
from cir.given import printable
from cir.images import ImageFile, locate
from cir.indexer.reading.live_segment import LiveSegment
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.questions import read_photo


@dataclass(frozen=True)
class KeptPhoto:
    """The photo of an image of an index; unlike the image, it can be sent to another process.

    Attributes:
        id: of the image.
        root: where it was when it was indexed; "" if its vector was imported.
        digest: SHA-256 of the file that was indexed.
        folder: the index.
        trusted: whether the photo may be read where it was indexed; otherwise only if the index keeps a copy.
    """

    id: str
    root: str
    digest: bytes
    folder: IndexFolder
    trusted: bool = True

    @property
    def file(self) -> ImageFile:
        """The image's file.

        Raises:
            MissingImageError: it is no longer where it was indexed, may not be read, or only a vector was imported.
        """
        if not self.root:
            raise MissingImageError(f"no photo is kept for {printable(self.id)}: its vector was imported without one")
        if not self.trusted:
            raise MissingImageError(
                f"{self.id}: its photo is under {self.root}, which you have not indexed on this machine, so it is not "
                "read; --trust-roots allows it"
            )
        return locate(self.root, self.id)

    def read(self) -> bytes:
        """The bytes of the photo that was indexed: from its file, else from the photos kept with judged queries.

        Raises:
            MissingImageError: it is in neither place, or the file has changed since.
        """
        return self._photo(unchanged=True)

    def read_current(self) -> bytes:
        """The bytes of the photo as it is now, changed or not. Raises MissingImageError."""
        return self._photo(unchanged=False)

    def _photo(self, *, unchanged: bool) -> bytes:
        try:
            data = self.file.read()
            if not unchanged or hashlib.sha256(data).digest() == self.digest:
                return data
            problem = MissingImageError(f"{self.id}: the photo has changed since it was indexed; run build-index")
        except MissingImageError as error:
            problem = error
        kept = read_photo(self.folder, self.digest)
        if kept is None:
            raise problem
        return kept


@dataclass(frozen=True)
class StoredImage:
    """A live image of an index.

    Attributes:
        id: its id.
        folder: the index.
        segment: the segment that holds it.
        row: its row in that segment.
        trusted: whether its photo may be read where it was indexed; otherwise only if the index keeps a copy.
    """

    id: str
    folder: IndexFolder
    segment: LiveSegment
    row: int
    trusted: bool = True

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file that was indexed, or of the stored vector's bytes if it was imported."""
        return bytes(self.segment.segment.digests[self.row])

    @property
    def root(self) -> str:
        """The folder or zip in which the image was when it was indexed; "" if its vector was imported."""
        return self.segment.segment.roots[self.row]

    @property
    def metadata(self) -> dict[str, str]:
        """Column -> value; columns without a value are left out."""
        return self.segment.segment.metadata_of(self.row)

    @property
    def space(self) -> str:
        """Id of the space of the stored vectors."""
        return self.segment.segment.layout.space

    @property
    def query_space(self) -> str:
        """Id of the space that queries for this image, and `vector`, are in."""
        return self.segment.query_space

    @property
    def vector(self) -> Floats:
        """(D,) float32, unit-norm, in `query_space`: the image's vector, or the mean of its tokens without one."""
        return self.segment.vector(self.row)

    @property
    def stored(self) -> Stored:
        """(D,) the stored vector, or (T, D) the tokens without one; in the precision of the index."""
        values: Stored = self.segment.segment.stored[self.row]
        return values

    @property
    def photo(self) -> KeptPhoto:
        """Its photo, wherever it is."""
        return KeptPhoto(self.id, self.root, self.digest, self.folder, self.trusted)

    @property
    def file(self) -> ImageFile:
        """The image's file. Raises as `KeptPhoto.file`."""
        return self.photo.file

    def read(self) -> bytes:
        """The bytes of the photo that was indexed. Raises MissingImageError."""
        return self.photo.read()

    def read_current(self) -> bytes:
        """The bytes of the photo as it is now, changed or not. Raises MissingImageError."""
        return self.photo.read_current()
