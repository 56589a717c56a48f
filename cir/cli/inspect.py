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
    from cir.indexer.gallery import Gallery
    from cir.types import Edge, ModelCard


@click.command()
@index_argument
@json_option
def info(index: Path, as_json: bool) -> None:
    """Say what INDEX holds: images, model, spaces and the ways between them, segments, metadata columns, size.

    \b
    Example:
      cir info my.index
    """
    from cir.indexer.gallery import Gallery

    gallery = Gallery.open(index)
    manifest, card = gallery.manifest, gallery.card
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
        "edges": {
            space: {"route": edge.route, "evidence": dict(edge.evidence)} for space, edge in gallery.edges.items()
        },
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
        "generation": f"{manifest.generation}, {manifest.created}"
        + (f"; before it {manifest.previous}" if manifest.previous else ""),
    }
    for name, value in lines.items():
        click.echo(f"{name:<11} {value}")
    makers = {segment.space: manifest.models[segment.model]["name"] for segment in manifest.segments}
    for space, maker in makers.items():
        if space != gallery.space.id:
            click.echo(f"{'older':<11} {_older(gallery, space, maker)}")


def _simplex(card: ModelCard) -> str:
    """What a stationary gallery is anchored to; empty for another."""
    if card.simplex is None:
        return ""
    count = sum(map(len, card.classes.values()))
    return (
        f"{card.simplex.dims} of {card.dims} dims on the vertices {card.simplex.vertices[:16]} of {count} classes "
        f"(map {card.classes_sha256})"
    )


def _older(gallery: Gallery, space: str, maker: str) -> str:
    """What became of the images of another model's space."""
    count = sum(gallery.stored_space(image_id) == space for image_id in gallery.ids)
    edge = gallery.edges.get(space)
    if edge is None:
        return f"{count:,} images of {maker} ({space}), not searched: measure a way with `cir replace-model`"
    figures = next(one for one in edge.evidence["routes"] if one["route"] == edge.route)
    gain = figures["gains"]["R@10"]
    return (
        f"{count:,} images of {maker} ({space}), asked by {edge.route}: R@10 {100 * gain['difference']:+.1f} "
        f"(at least {100 * gain['lower95']:+.1f}) on {edge.evidence['measured']:,} anchors, {edge.evidence['created']}"
        + _staleness(gallery, edge)
    )


def _staleness(gallery: Gallery, edge: Edge) -> str:
    """Said where the evidence is about other anchors than the index keeps now."""
    from cir.replacement.anchors import digest, kept_anchors

    kept, _ = kept_anchors(gallery.path, gallery)
    return "; stale: other anchors are kept now" if kept and digest(kept) != edge.evidence["anchors sha256"] else ""


@click.command()
@index_argument
def verify(index: Path) -> None:
    """Check every digest, count and norm of INDEX.

    \b
    Example:
      cir verify my.index
    """
    from cir.indexer.gallery import Gallery
    from cir.indexer.verify import verify as check

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
    from cir.models.weights import read_card

    rows = [(directory, read_card(directory)) for directory in found.available(model_dirs)]
    if as_json:
        click.echo(json.dumps([{"path": str(directory), **asdict(card)} for directory, card in rows]))
        return
    aliases = {name: alias for alias, name in found.ALIASES.items()}
    for directory, card in rows:
        alias = f" (alias {aliases[card.name]})" if card.name in aliases else ""
        outputs = f"{card.dims} dims, {card.tokens} tokens{', one vector' if card.vector else ''}"
        size = sum(path.stat().st_size for path in directory.iterdir())
        click.echo(f"{card.name}{alias}  {outputs}, {size / 1e6:.0f} MB  {card.digest}")
