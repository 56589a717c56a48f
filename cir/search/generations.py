"""Searchers of other generations of an index, which share their models with the one that is given."""

from __future__ import annotations

from cir.indexer.reading.earlier import at_generation, is_live
from cir.search.searcher import Searcher
from cir.types import Query


def newest(searcher: Searcher) -> Searcher | None:
    """A searcher of the generation that is live now; None if that is the one that is open, which costs one read.

    The given one stays as it is, so that work in batches can change over between two of them.

    Raises:
        IndexFormatError: it cannot be opened.
    """
    other = searcher._fixed()
    return other if other.refresh() else None


def is_newest(searcher: Searcher) -> bool:
    """Whether the generation that is open is the one that is live now; reads a line.

    Raises:
        IndexFormatError: that cannot be told.
    """
    return is_live(searcher.gallery)


def earlier(searcher: Searcher, generation: int) -> Searcher:
    """A searcher of an earlier generation that is kept; it logs no usage.

    Raises:
        UsageError: there is no such generation.
        CorruptIndexError: it is damaged.
    """
    other = searcher._fixed()
    other.gallery = at_generation(searcher.gallery, generation)
    other._keep_usage = False
    return other


def has_model(searcher: Searcher) -> bool:
    """Whether the serving model is loaded, so that a query with a text is answered without waiting for it."""
    return searcher.card.digest in searcher._encoders


def warm_up(searcher: Searcher) -> bool:
    """Load what composed queries need, and compute one. Whether they can be answered: of some models there is a name.

    Raises:
        WeightsError: the folder of a model is missing or does not fit.
    """
    from PIL import Image

    if searcher.card.only_named:
        return False
    if not len(searcher.gallery):
        _ = searcher.encoder
        return True
    searcher.rank(searcher.encode(Query(Image.new("RGB", (224, 224), "grey"), "warm up")), 1)
    return True


def needed_side(searcher: Searcher) -> int | None:
    """How large a picture must be for every loaded model, as for `cir.images.decode`; None for its full size."""
    sides = [encoder.min_side for encoder in searcher._encoders.values()]
    return None if not sides or None in sides else max(side for side in sides if side is not None)
