"""Opening an index for searching, with the model that it names or another."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from cir.given import paths
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.spread import Spread
from cir.search.encoding import check_space
from cir.search.searcher import Searcher
from cir.types import Encoder, ModelCard


def open_index(
    path: str | Path,
    *,
    model: str | Path | None = None,
    model_dirs: str | Path | Iterable[str | Path] = (),
    device: str = "auto",
    search_device: str = "auto",
    trust_roots: bool = False,
    strict: bool = False,
    spread: Spread | None = None,
) -> Searcher:
    """Open an index for searching. The index names its model, which is loaded when first needed.

    Args:
        path: the index folder.
        model: a model to ask with instead: one of the same space, or with a query head for it, such as a light model
            that asks the gallery of a strong one.
        model_dirs: where else to look for the model's folder: folders, or one.
        device: where the model runs.
        search_device: where large galleries are compared (`Gallery.open`).
        trust_roots: read photos also below folders that this user has not indexed (`Gallery.open`).
        strict: refuse an index with a damaged part; otherwise that is left out, and every result says how many images
            are missing (`SearchResult.damaged`).
        spread: who searches the gallery in place of this process (`cir.cluster.searching.Parts`).

    The searcher can be pickled, as these arguments: another process opens the index again. A fork needs no pickle.

    Raises:
        UsageError: an argument of another kind.
        IndexFormatError: not an index, another version, or damaged.
        SpaceMismatchError: `model` has neither the index's space nor a query head for it.
        WeightsError: there is no model of that name.
    """
    from cir import models

    gallery = Gallery.open(path, trust_roots=trust_roots, strict=strict, device=search_device, spread=spread)
    # Absolute, because another process that opens it again may have another working directory.
    folders = [folder.absolute() for folder in paths(model_dirs, "model_dirs")]
    given = None
    if model is not None:  # before a query that needs no encoder could pass
        from cir.models.kinds import read_card

        model = models.find(model, folders).absolute()
        given = read_card(model)
        check_space(gallery, given, gallery.space.id, heads=True)

    def load(card: ModelCard) -> Encoder:
        if model is not None and given is not None and card.digest == given.digest:
            return models.load_model(model, device=device)
        folder = models.find_for(card, folders)
        return models.load_model(folder, device=device)

    asker = given if given is not None and given.digest != gallery.card.digest else None
    if spread is not None:  # which belongs to this process
        return Searcher(gallery, load, asker=asker, keep_usage=True)
    reopen = partial(
        open_index,
        gallery.folder.root.absolute(),
        model=model,
        model_dirs=folders,
        device=device,
        search_device=search_device,
        trust_roots=trust_roots,
        strict=strict,
    )
    return Searcher(gallery, load, asker=asker, keep_usage=True, reopen=reopen)
