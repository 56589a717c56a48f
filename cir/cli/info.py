"""`cir info`"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir.cli.options import index_argument, json_option
from cir.errors import DataError
from cir.model_card import APART
from cir.types import DEFAULT_RECALL

if TYPE_CHECKING:
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.storage.manifest import Manifest, SegmentEntry
    from cir.mappings import SpaceMapping
    from cir.types import ModelCard


EARLIER = 10  # generations shown


@click.command()
@index_argument
@json_option
def info(index: Path, as_json: bool) -> None:
    """Show what INDEX holds.

    Images, serving model, spaces and the mappings between them, metadata columns, size, and earlier generations.

    \b
    Example:
      cir info my.index
    """
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.writing.history import generations
    from cir.replacement import questions

    gallery = Gallery.open(index)
    history, damaged = generations(index)
    for problem in damaged:
        click.echo(f"cir: {problem}", err=True)
    try:
        stored = questions.stored(gallery).sha256
    except DataError as error:
        stored = ""
        click.echo(f"cir: {error}", err=True)
    if as_json:
        click.echo(json.dumps(_to_json(gallery, history, stored)))
    else:
        click.echo("\n".join(_lines(gallery, history, stored)))


def _to_json(gallery: Gallery, history: list[Manifest], stored: str) -> dict[str, Any]:
    from cir.indexer.storage.mirror import place_of

    manifest, card = gallery.manifest, gallery.card
    return {
        "path": str(place_of(gallery.folder)),
        "generation": manifest.generation,
        "previous": manifest.previous,
        "created": manifest.created,
        "images": len(gallery),
        "searched": gallery.searched()[0],
        "damaged": [asdict(segment) for segment in gallery.damaged],
        "deleted": manifest.deleted_rows,
        "keep": manifest.keep,
        "model": {
            "name": card.name,
            "digest": card.digest,
            "architecture": card.architecture,
            "composition": card.composition,
            "weight": card.sum_weight if card.composition in APART else None,
            **card.source,
        },
        "space": {"id": gallery.space.id, "dims": gallery.space.dims},
        "simplex": _simplex(card),
        "vectors": gallery.layout.vectors,
        "tokens": gallery.layout.tokens,
        "columns": gallery.columns,
        "roots": list(manifest.roots),
        "untrusted_roots": sorted(gallery.untrusted_roots),
        "segments": [
            {"name": entry.name, "rows": entry.rows, "space": entry.space, "approximate": _approximate(gallery, entry)}
            for entry in manifest.segments
        ],
        "mappings": {
            space: {
                "route": mapping.route.value,
                "stale": _stale(mapping, stored),
                "evidence": mapping.evidence.to_json() if mapping.evidence else None,
            }
            for space, mapping in gallery.mappings.items()
        },
        "generations": [
            {
                "generation": earlier.generation,
                "created": earlier.created,
                "model": earlier.card.name,
                "images": earlier.rows,
                "spaces": _spaces(earlier),
            }
            for earlier in history
        ],
        "bytes": _size(manifest),
    }


def _lines(gallery: Gallery, history: list[Manifest], stored: str) -> list[str]:
    manifest, card, layout = gallery.manifest, gallery.card, gallery.layout
    outputs = [f"one vector of {card.dims} dims"] * layout.vectors + [f"{layout.tokens} tokens"] * bool(layout.tokens)
    simplex = _simplex(card)
    rows = {
        "images": f"{len(gallery):,} in {len(manifest.segments)} segment{'s' * (len(manifest.segments) != 1)}",
        "model": f"{card.name} ({card.digest})" + ", only its name: cir does not have it" * card.only_named,
        "composes by": _composition(card),
        "stored": f"{' and '.join(outputs)}, {_size(manifest) / max(1, len(gallery)):,.0f} bytes per image",
        "space": gallery.space.id + (f"; {simplex}" if simplex else ""),
        "columns": ", ".join(gallery.columns) or "none",
        "photos in": ", ".join(_root(root, gallery) for root in manifest.roots) or "none: vectors were imported",
        "generation": f"{manifest.generation}, {manifest.created}",
    }
    if card.source:
        rows["from"] = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in card.source.items())
    if card.only_named:
        del rows["composes by"]
    lines = [f"{name:<11} {value}" for name, value in rows.items()]
    lines += [f"{'approximate':<11} {line}" for line in _approximate_lines(gallery)]
    if gallery.damaged:
        images = sum(segment.images for segment in gallery.damaged)
        names = ", ".join(segment.name for segment in gallery.damaged)
        lines.append(f"{'damaged':<11} {images:,} images in segment {names}, left out: see `cir repair --dry-run`")
    earlier = [other for other in history if other.generation != manifest.generation]
    for other in earlier[:EARLIER]:
        spaces = f" in {_spaces(other)} spaces" if _spaces(other) > 1 else ""
        lines.append(
            f"{'earlier':<11} {other.generation}, {other.created}: {other.rows:,} images{spaces}, "
            f"served by {other.card.name}"
        )
    if len(earlier) > EARLIER:
        lines.append(f"{'':<11} and {len(earlier) - EARLIER:,} before them; --json lists all")
    older = dict.fromkeys(entry.space for entry in manifest.segments if entry.space != gallery.space.id)
    return lines + [f"{'older':<11} {_older(gallery, space, stored)}" for space in older]


def _approximate(gallery: Gallery, entry: SegmentEntry) -> dict[str, Any] | None:
    """What the approximate index or the token codes of a segment promise for ten hits; None without one."""
    from cir.indexer.reading import token_codes
    from cir.indexer.reading.ann import stored_curve
    from cir.indexer.storage.mappings import mapped_folder
    from cir.mappings import Maps

    folder, mapping = gallery.folder.gallery(entry.name).parent, gallery.mappings.get(entry.space)
    if mapping is not None and mapping.maps is Maps.GALLERY:
        folder = mapped_folder(folder, mapping)
    opening = None if entry.vectors else token_codes.stored_curve(folder)
    if opening is not None:
        share = opening.share(10, 1, DEFAULT_RECALL)
        return {"recall": DEFAULT_RECALL, "promised": opening.promised(share), "opened": share}
    curve = stored_curve(folder)
    if curve is None:
        return None
    effort = curve.effort(10, 1, DEFAULT_RECALL)
    point = effort or max(curve.points, key=lambda point: point.lower[0])
    return {
        "recall": DEFAULT_RECALL,
        "reached": effort is not None,
        "promised": {kind: recall.lower[0] for kind, recall in point.recall.items()},
        "lists": curve.lists,
        "nprobe": point.nprobe,
        "overfetch": point.overfetch,
        "ms": point.ms,
    }


def _approximate_lines(gallery: Gallery) -> list[str]:
    """One line for each approximate index."""
    lines = []
    for entry in gallery.manifest.segments:
        found = _approximate(gallery, entry)
        if found is not None and "opened" in found:
            lines.append(
                f"segment {entry.name}: recall@10 at least {found['promised']:.3f} (95 % lower bound; "
                f"{found['recall']:g} wanted); "
                f"the tokens of {found['opened']:.1%} of the images are scored"
            )
        elif found is not None:
            bounds = ", ".join(f"{recall:.3f} for {kind} queries" for kind, recall in found["promised"].items())
            effort = f"{found['nprobe']:,} of {found['lists']:,} lists, {found['ms']:.2f} ms"
            how = "searched with" if found["reached"] else "too little, so it is searched exactly; at most measured:"
            lines.append(
                f"segment {entry.name}: recall@10 at least {bounds} (95 % lower bounds; {found['recall']:g} wanted); "
                f"{how} {effort}"
            )
    return lines


def _root(root: str, gallery: Gallery) -> str:
    return f"{root} (not read: you have not indexed it on this machine)" if root in gallery.untrusted_roots else root


def _older(gallery: Gallery, space: str, stored: str) -> str:
    """How the images of an older model are searched."""
    images = f"{gallery.count_in(space):,} images of {gallery.manifest.maker(space).name} ({space})"
    mapping = gallery.mappings.get(space)
    if mapping is None:
        return f"{images}, not searched: measure a mapping with `cir replace-model`"
    if mapping.evidence is None:
        return f"{images}, searched by {mapping.route}"
    evidence = mapping.evidence
    if evidence.without_judgements:
        kinds = evidence.fidelity[mapping.route.value]
        shown = [kind for kind in ("image", "text", "composed") if kind in kinds]
        shares = ", ".join(f"{kind} {100 * kinds[kind].overlap:.1f} %" for kind in shown)
        return (
            f"{images}, searched by {mapping.route}: first ten shared with a re-index, {shares}; without judged "
            f"queries, {evidence.created}"
        )
    gains = ", ".join(
        f"{name} {100 * gain.difference:+.1f} (95 % lower bound {100 * gain.lower95:+.1f})"
        for name, gain in evidence.result(mapping.route).gains.items()
    )
    stale = "; stale: other judged queries are stored now" if _stale(mapping, stored) else ""
    return (
        f"{images}, searched by {mapping.route}: {gains} on {evidence.measured:,} judged queries, "
        f"{evidence.created}{stale}"
    )


def _stale(mapping: SpaceMapping, stored: str) -> bool:
    """Whether the evidence is about other judged queries than the index stores now."""
    evidence = mapping.evidence
    return bool(stored) and evidence is not None and evidence.questions_sha256 != stored


def _simplex(card: ModelCard) -> str:
    """The simplex of a stationary gallery; empty for others."""
    if card.simplex is None:
        return ""
    classes = sum(map(len, card.classes.values()))
    return (
        f"{card.simplex.dims} of {card.dims} dims on a simplex of {classes} classes "
        f"(vertices {card.simplex.vertices_sha256[:16]}, class map {card.classes_sha256})"
    )


def _composition(card: ModelCard) -> str:
    """How the serving model makes one query out of picture and caption."""
    if card.composition in APART:
        return f"{card.composition}, {card.sum_weight:g} of it the picture: `cir compose` measures others"
    return {"prompt": "its learned sentence prompt (SPRC)", "joint": "reading both together"}.get(
        card.composition, "a trained combiner of both vectors"
    )


def _spaces(manifest: Manifest) -> int:
    return len({entry.space for entry in manifest.segments})


def _size(manifest: Manifest) -> int:
    """Bytes of the published segment files."""
    return sum(file.bytes for entry in manifest.segments for file in entry.files.values())
