"""`cir explain`"""

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
from cir.cli.process import one_line
from cir.cli.stdin import STDIN, read_stdin
from cir.errors import UsageError
from cir.types import Query


@click.command()
@index_argument
@click.option(
    "-i",
    "--image",
    "references",
    multiple=True,
    metavar="REF",
    help="Reference: a gallery id, an image file, also in a zip (photos.zip/a.jpg), or - for a picture on stdin.",
)
@click.option("-t", "--text", default="", metavar="TEXT", help="What to change; or, without -i, what to find.")
@click.option("--not", "negatives", multiple=True, metavar="TEXT", help="As for `cir query`. May be repeated.")
@click.option(
    "--hit",
    "hits",
    multiple=True,
    metavar="ID",
    help="Image of INDEX to explain; by default the best hit. May be repeated.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "gradients", "occlusion"]),
    default="auto",
    show_default=True,
    help="occlusion covers the pictures piece by piece, for any model; gradients needs a model of this project and "
    "torch.",
)
@click.option(
    "--grid",
    default=7,
    show_default=True,
    type=click.IntRange(1, 32),
    help="By occlusion: pieces of a picture in height and in width.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw the explanation as a picture.")
@click.option("--model", metavar="NAME", help="The index's own model, if it is not located by itself.")
@device_option
@model_dir_option
@trust_roots_option
@json_option
def explain(
    index: Path,
    references: tuple[str, ...],
    text: str,
    negatives: tuple[str, ...],
    hits: tuple[str, ...],
    method: str,
    grid: int,
    out: Path | None,
    model: str | None,
    device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
    as_json: bool,
) -> int:
    """Show why an image of INDEX is a hit.

    Maps show what the score reacts to, over the references, over the hit, and over the hit for the words alone. Numbers
    show what the hit scores when a part of the query is left out, and how much of the gallery it is above then. They
    compare queries, and need not add up.

    \b
    Example:
      cir explain my.index -i shirt.jpg -t "with long sleeves" --out why.png
      cir explain my.index -i shirts/7.jpg -t "in red" --hit shirts/9.jpg --hit shirts/12.jpg --out why.png
      cir explain my.index -t "a striped summer dress" --json
    """
    quiet_libraries()
    from cir.explain import draw_explanation, explain_many
    from cir.explain.drawing import MIN_SIDE
    from cir.explain.wording import HONEST, lines_of, percent
    from cir.search import open_index
    from cir.sheet import save_sheet

    if references.count(STDIN) > 1:
        raise UsageError("-i - is given twice; standard input holds one picture")
    searcher = open_index(index, model=model, model_dirs=model_dirs, device=device, trust_roots=trust_roots)
    given = tuple(read_stdin() if name == STDIN else name for name in references)
    query = Query(given, text.strip(), negatives, k=1)
    wanted = hits or tuple(hit.id for hit in searcher.search(query).hits)
    if not wanted:
        click.echo("cir: nothing found, so there is nothing to explain", err=True)
        return 1
    explanations = explain_many(searcher, query, wanted, method=method, grid=grid)
    if out:
        save_sheet(draw_explanation(explanations, lambda name: searcher.picture(name, MIN_SIDE)), out)
    if as_json:
        click.echo(json.dumps([each.to_json() for each in explanations]))
    else:
        for each in explanations:
            measured = each.measured
            click.echo(f"{one_line(each.id)}  {measured.score:.4f}, above {percent(measured.above)} of the gallery")
            rows = lines_of(each)
            width = max((len(line.label) for line in rows), default=0)
            for line in rows:
                value = f"{line.measured.score:.4f}  {line.change:>6}"
                click.echo(f"  {line.label:<{width}}  {value}  above {percent(line.measured.above)}")
        if any(each.parts for each in explanations):
            click.echo(HONEST)
    for note in dict.fromkeys(note for each in explanations for note in each.notes):
        click.echo(f"cir: {one_line(note)}", err=True)
    return 0
