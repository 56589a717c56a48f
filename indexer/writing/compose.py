"""Changing how an index composes a picture with a caption: a property of its model's card that decides no vector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cir.errors import UsageError
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.writer import writing
from cir.model_card import APART


def check_composable(manifest: Manifest, index: str | Path) -> None:
    """Refuse an index whose model composes by itself. Raises UsageError."""
    card = manifest.card
    if card.composition not in APART:
        how = "joins their vectors by a trained network" if card.composition == "combiner" else "reads them together"
        raise UsageError(
            f"{index} is served by {card.name}, which has its own way with picture and caption: it {how}; "
            "encoders that know them apart, such as CLIP, have a composition to choose"
        )


def set_composition(index: str | Path, how: str, weight: float) -> Manifest:
    """Compose queries of an index in another way from now on; no vector changes.

    Args:
        index: the index folder.
        how: "sum", "slerp" or "product".
        weight: share of the picture, in [0, 1].

    Returns:
        The generation that is live now.

    Raises:
        UsageError: no such composition or share, or a model that composes by itself.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; the old generation stays.
    """
    if how not in APART:
        raise UsageError(f"no composition {how!r}; choose one of {', '.join(APART)}")
    if not 0 <= weight <= 1:  # also false of NaN
        raise UsageError(f"the share of the picture is {weight}; give a number from 0 to 1")
    folder = index_folder(index)
    check_composable(read_manifest(folder), index)  # before the lock creates a file in a folder that is no index
    with writing(folder) as writer:
        manifest = read_manifest(folder)
        check_composable(manifest, index)
        card = replace(manifest.card, composition=how, sum_weight=weight)  # type: ignore[arg-type]
        return writer.publish(manifest.succeed(card=card))
