"""`cir replace-model` and `cir rollback`: another model behind an index whose vectors stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.build_index import Progress
from cir.cli.options import device_option, index_argument, json_option, model_dir_option, quiet_libraries

if TYPE_CHECKING:
    from cir.replacement.replace import Replacement

REFUSED = 1


@click.command("replace-model")
@index_argument
@click.argument("model")
@click.option(
    "--anchors",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Questions about images of INDEX with known answers, one a line, as for `evaluate jsonl`; 200 at least.",
)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The anchors name pictures below this folder, not ids of INDEX.",
)
@click.option("--sample", default=2000, show_default=True, help="Further images that both models look at.")
@click.option("--apply", "publish", is_flag=True, help="Let MODEL serve if it passes. Stored vectors stay as they are.")
@click.option(
    "--accept-noninferior",
    default=0.0,
    metavar="PP",
    help="Accept answers up to PP percentage points worse; noted in the index.  [default: must be better]",
)
@device_option
@model_dir_option
@json_option
@click.pass_context
def replace_model(
    context: click.Context,
    index: Path,
    model: str,
    anchors: Path,
    data_root: Path | None,
    sample: int,
    publish: bool,
    accept_noninferior: float,
    device: str,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure whether MODEL may serve INDEX without encoding its gallery again, and say what to do.

    Every way from the new model's queries to the stored vectors is fitted on half of the anchors and measured on the
    other half, beside the index as it is and beside everything encoded again. Exit code 0 if a way passes, 1 if none
    does: then nothing is changed.

    \b
    Example:
      cir replace-model my.index better-model --anchors anchors.jsonl
      cir replace-model my.index better-model --anchors anchors.jsonl --apply
    """
    quiet_libraries()
    from cir import models
    from cir.errors import UsageError
    from cir.replacement.anchors import read_anchors
    from cir.replacement.replace import apply, check, study_replacement
    from cir.search import open_index

    if sample < 0 or accept_noninferior < 0:
        raise UsageError("--sample and --accept-noninferior are 0 or more")
    opened = open_index(index, model_dirs=model_dirs, device=device)
    asked = read_anchors(anchors, opened.gallery, data_root)
    encoder = models.load_model(model, device=device, model_dirs=model_dirs)
    check(opened.gallery.manifest, encoder)
    found = study_replacement(
        opened,
        encoder,
        asked,
        sample=sample,
        margin=accept_noninferior / 100,
        progress=Progress("encoding the sample"),
    )
    passed = all(one.verdict.route for one in found)
    applied = apply(index, encoder, found).generation if publish and passed else None
    if as_json:
        told = {"spaces": [one.to_json() for one in found], "passed": passed, "applied": applied}
        click.echo(json.dumps(told))
    else:
        old = opened.card.name
        click.echo("\n\n".join(_render(one, old, encoder.card.name) for one in found))
        if applied:
            click.echo(
                f"\n{index}: generation {applied}, served by {encoder.card.name}; `cir rollback {index}` goes back"
            )
        elif passed and not publish:
            click.echo("\nnothing was changed; --apply lets it serve")
    if not passed:
        context.exit(REFUSED)


@click.command()
@index_argument
@click.option("--to", type=int, metavar="N", help="Generation to go back to.  [default: the one that was live before]")
def rollback(index: Path, to: int | None) -> None:
    """Make the generation of INDEX that was live before live again. Nothing is deleted: do it twice to go forward.

    \b
    Example:
      cir rollback my.index
    """
    from cir.indexer.history import rollback as go_back

    before, now = go_back(index, to)
    click.echo(
        f"{index}: generation {now.generation} is what {to or before.previous} was: "
        f"{now.rows:,} images, served by {now.card.name}"
    )
    if now.rows < before.rows:
        click.echo(f"{before.rows - now.rows:,} images that were added since are not in it; build-index adds them")


def _render(found: Replacement, old: str, new: str) -> str:
    """The table and the verdict, for a person."""
    heading = (
        f"{old} -> {new}: {found.images:,} images of space {found.space}, {found.anchors:,} anchors "
        f"({found.measured:,} measured), {found.sample:,} images seen by both"
    )
    rows = [["", "R@1", "R@10", "gain R@10 (95 % at least)", "of the gain", "lost", "half encoded", ""]]
    names = {"now": f"{old}, as it is", "encoded again": f"{new}, everything encoded again", "naive": "mixed silently"}
    for name, values in found.compared.items():
        rows.append([names[name], _percent(values["R@1"]), _percent(values["R@10"]), "", "", "", "", ""])
    for one in found.routes:
        gain, low = one.gains["R@10"]
        share = one.recovered["R@10"]
        rows.append(
            [
                f"by {one.route}",
                _percent(one.values["R@1"]),
                _percent(one.values["R@10"]),
                f"{100 * gain:+.1f} ({100 * low:+.1f})",
                "" if share is None else f"{100 * share:.0f} %",
                _percent(one.flips),
                _percent(one.mixed["R@10"]),
                "refused" if one.route in found.verdict.refused else "passes",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [heading, ""]
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    lines.append("")
    for route, reasons in found.verdict.refused.items():
        lines += [f"{route or 'refused'}: {reason}" for reason in reasons]
    lines += [f"note: {warning}" for warning in found.verdict.warnings]
    lines.append(f"verdict: {_verdict(found)}")
    return "\n".join(lines)


def _verdict(found: Replacement) -> str:
    said = f"may serve by {found.verdict.route}" if found.verdict.route else "refused"
    return f"{said}; {found.verdict.advice}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
