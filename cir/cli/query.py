"""`cir query`"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import (
    device_option,
    index_argument,
    json_option,
    model_dir_option,
    quiet_libraries,
    search_device_option,
    trust_roots_option,
)
from cir.cli.query_lines import answer_lines
from cir.cli.results import path_lines, table, to_json, warnings
from cir.cli.stdin import STDIN, read_stdin
from cir.conditions import as_conditions
from cir.errors import DataError, UsageError
from cir.query_json import LARGEST_K
from cir.types import DEFAULT_RECALL, Query, SearchResult

if TYPE_CHECKING:
    from cir.data.judged_query import JudgedQuery
    from cir.search.searcher import Searcher


@click.command()
@index_argument
@click.argument("batch", required=False, metavar="[-]")
@click.option(
    "-i",
    "--image",
    "references",
    multiple=True,
    metavar="REF",
    help="Reference: a gallery id, an image file, also in a zip (photos.zip/a.jpg), or - for a picture on stdin.",
)
@click.option(
    "-t",
    "--text",
    default="",
    metavar="TEXT",
    help='What to change: "in red, with long sleeves"; or, without -i, what to find.',
)
@click.option(
    "--not",
    "negatives",
    multiple=True,
    metavar="TEXT",
    help="Rank images like this lower. None is excluded: for that use --where. May be repeated.",
)
@click.option("-k", default=10, show_default=True, type=click.IntRange(1, LARGEST_K), help="Number of hits.")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Only images whose metadata meet this: colour=red, colour!=red, price<50 (or <=, >, >=), "
    "colour in red,blue, colour not in red,blue, title~cotton (contains). `and` joins several; may be repeated. A "
    "value that holds `and` or a comma is written in double quotes.",
)
@click.option("--exact", is_flag=True, help="Score every image exactly; slower for tokens, and from 100,000 images on.")
@click.option(
    "--recall",
    default=DEFAULT_RECALL,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the best images that an approximate search must find (from 100,000 images on).",
)
@click.option("--paths", is_flag=True, help="Print only the files, one per line; each can be a REF again.")
@click.option("-0", "null", is_flag=True, help="With --paths: end each with NUL, for `xargs -0` and odd names.")
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Draw the answer as a picture.")
@click.option(
    "--judge",
    is_flag=True,
    help="Ask of each hit whether it is right, and keep the marks in INDEX; without a terminal, lines y, n, s or q on "
    "stdin answer. See `cir questions --from-marks`.",
)
@click.option(
    "--model", metavar="NAME", help="Ask with another model: one of the index's space, or with a query head for it."
)
@device_option
@search_device_option
@model_dir_option
@trust_roots_option
@json_option
def query(
    index: Path,
    batch: str | None,
    references: tuple[str, ...],
    text: str,
    negatives: tuple[str, ...],
    k: int,
    where: tuple[str, ...],
    exact: bool,
    recall: float,
    paths: bool,
    null: bool,
    sheet: Path | None,
    judge: bool,
    model: str | None,
    device: str,
    search_device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
    as_json: bool,
) -> int:
    """Search INDEX with images, a sentence, or both.

    The hits are like the references, changed as the text says. An image alone finds similar ones, a text alone what it
    describes. Several references are averaged.

    With `-` instead of -i and -t, queries are read from stdin as JSON lines {"references", "text", "negatives", "k",
    "where", "id"}; --exact and --recall apply to all of them. Each is answered by a JSON line, in order; lines that
    have already arrived are answered together. A line that cannot be answered gets {"id", "error"}, and the others
    their hits. What is built meanwhile is picked up. "where" is a text as for --where, a list of such texts, or an
    object such as {"season": "Summer", "colour": ["red", "blue"], "price": {"<": 50}}.

    \b
    Example:
      cir query my.index -i shirt.jpg -t "in red, with long sleeves" --sheet answer.png
      cir query my.index -t "in red" --where "price<50 and colour in red,pink"
      cir query my.index -t "a striped summer dress" -k 20 --paths -0 | xargs -0 cp -t picked/
      curl -s https://example.org/shirt.jpg | cir query my.index -i - -t "in red"
      cir query my.index - < queries.jsonl > answers.jsonl
      cir query my.index -i shirts/7.jpg -t "in red" --sheet answer.png --judge
    """
    quiet_libraries()
    from cir.search import open_index

    if as_json and paths:
        raise UsageError("--json and --paths exclude each other; give one of them")
    if null and not paths:
        raise UsageError("-0 ends the paths of --paths; give both")
    if references.count(STDIN) > 1:
        raise UsageError("-i - is given twice; standard input holds one picture")
    if batch not in (None, "-"):
        raise UsageError(f"unexpected argument {batch!r}; a reference is given with -i, a batch on stdin with -")
    if batch == "-" and (references or text or negatives or sheet or paths or where):
        raise UsageError("with - the queries come from stdin; leave out -i, -t, --not, --where, --paths and --sheet")
    if judge:
        _check_judge(references, text, negatives, batch == "-" or as_json or paths)
    searcher = open_index(
        index,
        model=model,
        model_dirs=model_dirs,
        device=device,
        search_device=search_device,
        trust_roots=trust_roots,
    )
    if batch == "-":
        if sys.stdin is None:
            raise DataError("standard input is closed; the queries come from it")
        return answer_lines(searcher, sys.stdin.buffer, k=k, exact=exact, recall=recall)
    conditions = as_conditions(where)
    judged = _judged_query(searcher, references, text) if judge else None
    given = tuple(read_stdin() if name == STDIN else name for name in references)
    result = searcher.search(Query(given, text.strip(), negatives, k, conditions), exact=exact, recall=recall)
    if sheet:
        _draw(searcher, result, sheet)
    result = replace(result, query=replace(result.query, references=references))  # names, in place of bytes
    if as_json:
        click.echo(json.dumps(to_json(result)))
    elif paths:
        click.echo(path_lines(result, null=null), nl=False)
    else:
        click.echo(table(result), nl=bool(result.hits))
    for warning in warnings(result, escaped=paths and not null):
        click.echo(f"cir: {warning}", err=True)
    unread = searcher.gallery.untrusted_roots if any(hit.path is None for hit in result.hits) else ()
    if unread:
        click.echo(f"cir: {', '.join(sorted(unread))}: not indexed by you, so not read; see --trust-roots", err=True)
    if judged and result.hits:
        from cir.cli.judging import Judge

        person = Judge(searcher.gallery, [searcher.card.digest])
        person.ask(judged, [hit.id for hit in result.hits])
        click.echo(f"cir: {person.marks:,} marks kept in {index}", err=True)
    if not result.hits:
        meets = " and ".join(map(str, conditions))
        click.echo(f"cir: nothing found{f': no image has {meets}' if meets else ''}", err=True)
    return 0 if result.hits else 1


def _check_judge(references: tuple[str, ...], text: str, negatives: tuple[str, ...], for_programs: bool) -> None:
    """Marks become judged queries: at most one reference, and a caption."""
    if for_programs:
        raise UsageError("--judge asks about one answer that a person sees; leave out -, --json and --paths")
    if not text.strip() or len(references) > 1 or negatives:
        raise UsageError("--judge needs a query of a text (-t) and at most one reference (-i), without --not")
    if STDIN in references:
        raise UsageError("--judge reads answers from standard input; give -i the name of an image of INDEX")


def _judged_query(searcher: Searcher, references: tuple[str, ...], text: str) -> JudgedQuery:
    from cir.data.judged_query import JudgedQuery
    from cir.search.prepare import resolve

    ids = [resolve(searcher.gallery, name).id for name in references]
    if None in ids:
        raise UsageError(
            f"--judge: {references[0]} is no image of {searcher.gallery.folder}, which a judged query needs; add it: "
            "`cir build-index`"
        )
    return JudgedQuery("", ids[0] or "" if ids else "", text.strip(), frozenset())


def _draw(searcher: Searcher, result: SearchResult, path: Path) -> None:
    from cir.sheet import MIN_SIDE, draw_sheet, save_sheet

    save_sheet(draw_sheet(result, lambda name: searcher.picture(name, MIN_SIDE)), path)
