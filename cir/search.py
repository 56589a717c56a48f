"""Search: an index on disk and the model that made it, asked composed queries.

    query -> vector of the index's space -> candidates by gallery vector -> order by tokens -> hits

What a query consists of decides how its vector is made: reference and text by passes A and B, a text alone by pass D,
references alone by their own gallery vectors. Several references are averaged; each negative is subtracted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cir.errors import ImageDecodeError, MissingImageError, SpaceMismatchError, UsageError
from cir.images import ImageFile, decode, locate
from cir.indexer.gallery import Gallery
from cir.text import clean_caption
from cir.types import Encoder, Hit, ModelCard, Query, SearchResult

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Floats = NDArray[np.float32]

# Share of a negative's direction that is taken away. At 1 a query says more about what it is not than what it is.
NEGATIVE_WEIGHT = 0.5
BATCH = 64


def open_index(
    path: str | Path, *, model: str | Path | None = None, model_dirs: Sequence[Path] = (), device: str = "auto"
) -> Index:
    """Open an index for searching. The model is the one the index names, and is loaded when first needed.

    Args:
        path: the index directory.
        model: a model to query with instead; refused unless its space is the index's.
        model_dirs: where else to look for the model's folder.
        device: where the model runs.

    Raises:
        IndexFormatError: not an index, a newer format, or damaged.
    """
    from cir import models

    gallery = Gallery.open(Path(path))
    if model is not None:  # before a query that needs no encoder could pass
        from cir.models.weights import read_card

        _same_space(gallery, read_card(models.find(model, model_dirs)))

    def load() -> Encoder:
        if model is not None:
            return models.load_model(model, device=device, model_dirs=model_dirs)
        found = models.find_for(gallery.card, gallery.model_path, model_dirs)
        return models.load_model(found, device=device)

    return Index(gallery, load)


class Index:
    """A gallery and its query encoder.

    Args:
        gallery: an opened snapshot.
        load: gives the encoder; called once, when a query first needs it.
    """

    def __init__(self, gallery: Gallery, load: Any) -> None:
        self.gallery = gallery
        self._load = load
        self._encoder: Encoder | None = None

    @property
    def card(self) -> ModelCard:
        """Card of the model that made the index."""
        return self.gallery.card

    @property
    def ids(self) -> Sequence[str]:
        """Ids of all live images."""
        return self.gallery.ids

    @property
    def encoder(self) -> Encoder:
        """The query encoder.

        Raises:
            SpaceMismatchError: the model is not the one whose vectors the index holds.
        """
        if self._encoder is None:
            encoder: Encoder = self._load()
            _same_space(self.gallery, encoder.card)
            self._encoder = encoder
        return self._encoder

    def search(self, query: Query, *, exact: bool = False) -> SearchResult:
        """Answer one query; see `search_many`."""
        return self.search_many([query], exact=exact)[0]

    def search_many(self, queries: Sequence[Query], *, exact: bool = False) -> list[SearchResult]:
        """Answer queries, encoded in batches.

        References that are gallery images, by id or by content, are not among their own hits.

        Args:
            exact: compare with every image, tokens included, instead of ordering the best candidates.

        Raises:
            UsageError: an empty query, k below 1, an unknown metadata column.
            MissingImageError: a reference that is neither an image file nor an id of the gallery.
            ImageDecodeError: a reference that cannot be read.
        """
        started = time.perf_counter()
        for query in queries:
            _check(query)
        resolved = [[self._resolve(reference) for reference in query.references] for query in queries]
        vectors = self._vectors(queries, resolved)
        results = []
        for query, references, vector in zip(queries, resolved, vectors, strict=True):
            exclude = query.exclude.union(*(reference.same for reference in references))
            allowed = self.gallery.select(query.where) if query.where else None
            found = self.gallery.search(
                vector[None], query.k, space=self.gallery.space.id, allowed=allowed, exclude=[exclude], exact=exact
            )[0]
            searched = len(self.gallery) if allowed is None else int(allowed.sum())
            hits = tuple(self._hit(rank, image_id, score) for rank, (image_id, score) in enumerate(found, start=1))
            results.append(SearchResult(query, hits, searched, self.card.name, 0.0, self._fits(query, hits)))
        seconds = (time.perf_counter() - started) / max(1, len(queries))
        return [replace(result, seconds=seconds) for result in results]

    def _fits(self, query: Query, hits: Sequence[Hit]) -> bool | None:
        floor = self.card.floors.get("composed" if query.references else "text")
        if floor is None or query.negatives or not clean_caption(query.text) or not hits:
            return None
        return hits[0].score >= floor

    def query_vectors(self, queries: Sequence[Query]) -> Floats:
        """The vectors queries are answered with: (B, D) float32, unit-norm."""
        return self._vectors(queries, [[self._resolve(r) for r in query.references] for query in queries])

    def rank(
        self, vectors: Floats, k: int, *, allowed: Sequence[str] | None = None, exclude: Sequence[frozenset[str]] = ()
    ) -> list[list[tuple[str, float]]]:
        """The k best (id, score) for each of (B, D) vectors, among `allowed` ids, without each row's `exclude`."""
        mask = None
        if allowed is not None:
            mask = np.zeros(len(self.gallery), dtype=bool)
            mask[[self.gallery.row(image_id) for image_id in allowed]] = True
        return self.gallery.search(
            vectors, k, space=self.gallery.space.id, allowed=mask, exclude=exclude or [frozenset()] * len(vectors)
        )

    def _vectors(self, queries: Sequence[Query], resolved: Sequence[Sequence[_Reference]]) -> Floats:
        out = np.zeros((len(queries), self.card.dims), dtype=np.float32)
        composed: list[tuple[int, _Reference, str]] = []
        texts: list[tuple[int, float, str]] = []
        for row, (query, references) in enumerate(zip(queries, resolved, strict=True)):
            text = clean_caption(query.text)
            if query.text and references:
                composed += [(row, reference, text) for reference in references]
            elif text:
                texts.append((row, 1.0, text))
            else:
                for reference in references:
                    out[row] += self._own_vector(reference)
        for start in range(0, len(composed), BATCH):
            part = composed[start : start + BATCH]
            pixels = np.stack([self.encoder.preprocess(reference.picture()) for _, reference, _ in part])
            encoded = self.encoder.encode_queries(pixels, [text for _, _, text in part])
            np.add.at(out, [row for row, _, _ in part], encoded)
        self._add_texts(out, texts)
        out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        negatives = [(row, -NEGATIVE_WEIGHT, text) for row, query in enumerate(queries) for text in query.negatives]
        self._add_texts(out, negatives)
        out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out

    def _add_texts(self, out: Floats, texts: Sequence[tuple[int, float, str]]) -> None:
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            encoded = self.encoder.encode_texts([text for _, _, text in part])
            weights = np.array([weight for _, weight, _ in part], dtype=np.float32)
            np.add.at(out, [row for row, _, _ in part], encoded * weights[:, None])

    def _own_vector(self, reference: _Reference) -> Floats:
        """The reference as the gallery sees it: the stored vector, or one encoded now."""
        if reference.id is not None:
            return self.gallery.vector(reference.id)
        encoded = self.encoder.encode_images(self.encoder.preprocess(reference.picture())[None])
        if encoded.vectors is not None and self.gallery.has_vectors:
            vector: Floats = encoded.vectors[0]
            return vector
        if encoded.tokens is None:
            raise UsageError(f"{self.card.name} gives neither vectors nor tokens; rebuild the index with another model")
        mean: Floats = encoded.tokens[0].mean(axis=0)
        mean /= np.linalg.norm(mean)
        return mean

    def picture(self, reference: Any) -> Image:
        """The decoded picture of a reference: an image file, an id of the gallery, or a picture already.

        Raises:
            MissingImageError: no such file or id, or the photo of a gallery image is no longer where it was.
            ImageDecodeError: it cannot be read.
        """
        image: Image = self._resolve(reference).picture()
        return image

    def _resolve(self, reference: Any) -> _Reference:
        """Find out what a reference is; files are read and decoded here, so that mistakes are told before encoding.

        An id of the gallery wins over a file of the same name, so that the working directory changes no answer.
        """
        if not isinstance(reference, str | Path):
            return _Reference(picture=lambda: reference)
        name = str(reference)
        if name in self.gallery:
            return _Reference(picture=lambda: self._photo(name), same=frozenset([name]), id=name)
        if _is_file(name):
            data = ImageFile(name, "", name).read()
            image = decode(data, name)
            same = self.gallery.ids_of(hashlib.sha256(data).digest())
            return _Reference(picture=lambda: image, same=frozenset(same), id=min(same, default=None))
        example = self.gallery.ids[0] if len(self.gallery) else "folder/name.jpg"
        raise MissingImageError(
            f"{name}: neither an image file nor an id of {self.gallery.path}; ids look like {example}"
        )

    def _photo(self, image_id: str) -> Image:
        file = locate(self.gallery.root(image_id), image_id)
        return decode(file.read(), image_id)

    def _hit(self, rank: int, image_id: str, score: float) -> Hit:
        metadata: Mapping[str, str] = self.gallery.metadata(image_id)
        try:
            file = locate(self.gallery.root(image_id), image_id)
            path = file.path if file.member is None else f"{file.path}/{file.member}"
        except (MissingImageError, ImageDecodeError):
            path = None  # vectors outlive photos
        return Hit(rank, image_id, score, path, metadata)


class _Reference:
    """A resolved reference: how to get its picture, its gallery id if any, and the ids of the same picture."""

    def __init__(self, *, picture: Any, same: frozenset[str] = frozenset(), id: str | None = None) -> None:
        self.picture = picture
        self.same = same
        self.id = id


def _same_space(gallery: Gallery, card: ModelCard) -> None:
    if card.space.id != gallery.space.id:
        raise SpaceMismatchError(
            f"{gallery.path} holds vectors of {gallery.card.name} ({gallery.card.digest}), which {card.name} "
            f"({card.digest}) cannot search; query without --model, or rebuild: "
            f"cir build-index IMAGES -o NEW.index --model {card.name}"
        )


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name longer than any file's
        return False


def _check(query: Query) -> None:
    if not query.references and not clean_caption(query.text):
        raise UsageError("an empty query; give a reference (-i), a text (-t), or both")
    for text in (query.text, *query.negatives):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(f"{text!a}: not readable as text; write it in UTF-8")
    if not all(map(clean_caption, query.negatives)):
        raise UsageError("an empty negative; say what is not wanted, or leave it out")
    if query.k < 1:
        raise UsageError(f"k is {query.k}; ask for at least 1 hit")
