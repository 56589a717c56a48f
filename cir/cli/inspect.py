"""`cir info`, `cir verify`, `cir models`: what is there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir.cli.options import index_argument, json_option, model_dir_option, quiet_libraries
from cir.errors import CorruptIndexError

if TYPE_CHECKING:
    from cir.indexer.reading.gallery import Gallery
    from cir.types import SpaceMapping, ModelCard


EARLIER = 10  # generations that are shown


@click.command()
@index_argument
@json_option
def info(index: Path, as_json: bool) -> None:
    """Say what INDEX holds: images, model, spaces and the ways between them, segments, metadata columns, size.

    \b
    Example:
      cir info my.index
    """
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.writing.history import generations
    from cir.replacement.questions import kept_anchors

    gallery = Gallery.open(index)
    manifest, card, kept = gallery.manifest, gallery.card, kept_anchors(index, gallery).sha256
    size = sum(file.bytes for segment in manifest.segments for file in segment.files.values())
    told: dict[str, Any] = {
        "path": str(index),
        "generation": manifest.generation,
        "created": manifest.created,
        "images": len(gallery),
        "deleted": sum(map(len, manifest.deleted.values())),
        "model": {"name": card.name, "digest": card.digest, "path": gallery.model_path},
        "space": {"id": gallery.space.id, "dims": gallery.space.dims},
        "simplex": _simplex(card),
        "vectors": gallery.has_vectors,
        "tokens": card.tokens if gallery.has_tokens else 0,
        "columns": gallery.columns,
        "roots": list(manifest.roots),
        "segments": [
            {"name": segment.name, "rows": segment.rows, "space": segment.space} for segment in manifest.segments
        ],
        "previous": manifest.previous,
        "searched": int(gallery.searchable.sum()),
        "mappings": {
            space: {"route": mapping.route, "stale": _stale(mapping, kept), "evidence": dict(mapping.evidence)}
            for space, mapping in gallery.mappings.items()
        },
        "generations": [
            {
                "generation": one.generation,
                "created": one.created,
                "model": one.card.name,
                "images": one.rows,
                "spaces": len({entry.space for entry in one.segments}),
            }
            for one in generations(index)
        ],
        "bytes": size,
    }
    if as_json:
        click.echo(json.dumps(told))
        return
    stored = [f"one vector of {gallery.space.dims}"] * told["vectors"] + [f"{told['tokens']} tokens"] * bool(
        told["tokens"]
    )
    lines = {
        "images": f"{told['images']:,} in {len(manifest.segments)} segments",
        "model": f"{card.name} ({card.digest})",
        "stored": f"{' and '.join(stored)}, {size / max(1, len(gallery)):,.0f} bytes per image",
        "space": gallery.space.id + (f"; {told['simplex']}" if told["simplex"] else ""),
        "columns": ", ".join(gallery.columns) or "none",
        "found in": ", ".join(manifest.roots),
        "generation": f"{manifest.generation}, {manifest.created}",
    }
    for name, value in lines.items():
        click.echo(f"{name:<11} {value}")
    before = [one for one in told["generations"] if one["generation"] != manifest.generation]
    for one in before[:EARLIER]:
        spaces = f" in {one['spaces']} spaces" if one["spaces"] > 1 else ""
        click.echo(
            f"{'earlier':<11} {one['generation']}, {one['created']}: {one['images']:,} images{spaces}, "
            f"served by {one['model']}"
        )
    if len(before) > EARLIER:
        click.echo(f"{'':<11} and {len(before) - EARLIER:,} before them: --json lists all")
    makers = {segment.space: manifest.models[segment.model]["name"] for segment in manifest.segments}
    for space, maker in makers.items():
        if space != gallery.space.id:
            click.echo(f"{'older':<11} {_older(gallery, space, maker, kept)}")


def _simplex(card: ModelCard) -> str:
    """What a stationary gallery is anchored to; empty for another."""
    if card.simplex is None:
        return ""
    count = sum(map(len, card.classes.values()))
    return (
        f"{card.simplex.dims} of {card.dims} dims on the vertices {card.simplex.vertices[:16]} of {count} classes "
        f"(map {card.classes_sha256})"
    )


def _older(gallery: Gallery, space: str, maker: str, kept: str) -> str:
    """What became of the images of another model's space."""
    count = len(gallery.ids_in(space))
    mapping = gallery.mappings.get(space)
    if mapping is None:
        return f"{count:,} images of {maker} ({space}), not searched: measure a way with `cir replace-model`"
    figures = next(one for one in mapping.evidence["routes"] if one["route"] == mapping.route)
    gains = ", ".join(
        f"{name} {100 * gain['difference']:+.1f} (at least {100 * gain['lower95']:+.1f})"
        for name, gain in figures["gains"].items()
    )
    stale = "; stale: other anchors are kept now" if _stale(mapping, kept) else ""
    return (
        f"{count:,} images of {maker} ({space}), asked by {mapping.route}: {gains} "
        f"on {mapping.evidence['measured']:,} anchors, {mapping.evidence['created']}{stale}"
    )


def _stale(mapping: SpaceMapping, kept: str) -> bool:
    """Whether the evidence is about other anchors than those of this digest, which the index keeps now."""
    return bool(kept) and mapping.evidence["anchors sha256"] != kept


@click.command()
@index_argument
def verify(index: Path) -> None:
    """Check every digest, count and norm of INDEX.

    \b
    Example:
      cir verify my.index
    """
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.reading.verify import verify as check

    problems = check(index)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise CorruptIndexError(f"{problems[0]}{more}; restore it from a copy, or build the index again")
    click.echo(f"{index}: {len(Gallery.open(index)):,} images, nothing wrong")


@click.command()
@model_dir_option
@json_option
def models(model_dirs: tuple[Path, ...], as_json: bool) -> None:
    """List the models that can be named: inside the package, under --model-dir and CIR_MODELS.

    \b
    Example:
      cir models
    """
    quiet_libraries()
    from cir import models as found
    from cir.models.weights import files_of, read_card

    rows = [(directory, read_card(directory)) for directory in found.available(model_dirs)]
    if as_json:
        click.echo(json.dumps([{"path": str(directory), **asdict(card)} for directory, card in rows]))
        return
    aliases = {name: alias for alias, name in found.ALIASES.items()}
    for directory, card in rows:
        alias = f" (alias {aliases[card.name]})" if card.name in aliases else ""
        outputs = f"{card.dims} dims, {card.tokens} tokens{', one vector' if card.vector else ''}"
        size = sum(path.stat().st_size for path in files_of(directory))
        click.echo(f"{card.name}{alias}  {outputs}, {size / 1e6:.0f} MB  {card.digest}")
