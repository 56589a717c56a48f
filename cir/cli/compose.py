"""`cir compose`"""

from __future__ import annotations

import json
from pathlib import Path

import click

from cir.cli.options import (
    device_option,
    index_argument,
    json_option,
    model_dir_option,
    quiet_libraries,
    trust_roots_option,
)
from cir.errors import UsageError
from cir.model_card import APART

FEWEST = 40  # judged queries below which halves say nothing


@click.command()
@index_argument
@click.option("--set", "how", type=click.Choice(APART), help="Take this one, without measuring.")
@click.option(
    "--weight",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="With --set: the share of the picture, 0 to 1.  [default: 0.5]",
)
@click.option("--apply", "publish", is_flag=True, help="Compose by the best one from now on.")
@device_option
@model_dir_option
@trust_roots_option
@json_option
def compose(
    index: Path,
    how: str | None,
    weight: float | None,
    publish: bool,
    device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
    as_json: bool,
) -> None:
    """Choose how INDEX makes a query of picture and text.

    This is for encoders that know picture and text only apart, such as CLIP and SigLIP: the weighted sum of both
    vectors, a point of the great circle between them (slerp), or the product of the similarities to both. Each is
    measured with the judged queries that `cir questions` has stored: the share of the picture is chosen on half of
    them, and R@k is of the other half. No vector changes, and `cir rollback` undoes it.

    \b
    Example:
      cir compose my.index
      cir compose my.index --apply
      cir compose my.index --set product --weight 0.4
    """
    quiet_libraries()
    from cir.indexer.writing.compose import check_composable, set_composition

    if weight is not None and how is None:
        raise UsageError("--weight is for --set; without it the best share is measured")
    if how is not None:
        share = 0.5 if weight is None else weight
        number = set_composition(index, how, share).generation
        if as_json:
            click.echo(json.dumps({"composition": how, "weight": share, "applied": number}))
        else:
            click.echo(f"{index}: generation {number} composes by {how}, {share:g} of it the picture")
        return
    from cir.eval.compositions import compare
    from cir.replacement import questions
    from cir.search import open_index

    searcher = open_index(index, model_dirs=model_dirs, device=device, trust_roots=trust_roots)
    check_composable(searcher.gallery.manifest, index)
    queries = [query for query in questions.stored(searcher.gallery).queries if query.reference]
    if len(queries) < FEWEST:
        raise UsageError(
            f"{index} stores {len(queries)} judged queries with a reference, {FEWEST} are needed: `cir questions "
            f"{index}`; or choose without measuring: --set product"
        )
    found, measured = compare(searcher, queries)
    best = found[0]
    generation = set_composition(index, best.how, best.weight).generation if publish else None
    if as_json:
        rows = [{"composition": each.how, "weight": each.weight, **each.recalls} for each in found]
        click.echo(json.dumps({"measured": measured, "compositions": rows, "applied": generation}))
        return
    click.echo(f"{measured:,} judged queries; the others chose the shares, and which comes first")
    for each in found:
        figures = "  ".join(f"{name} {100 * value:5.1f}" for name, value in each.recalls.items())
        click.echo(f"  {each.how:<8} picture {each.weight:.1f}  {figures}")
    if generation is None:
        click.echo("nothing has changed; --apply takes the first")
    else:
        click.echo(f"{index}: generation {generation} composes by {best.how}; undo: `cir rollback {index}`")
