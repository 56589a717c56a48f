"""`cir query`"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir.cli.options import device_option, index_argument, json_option, model_dir_option, quiet_libraries
from cir.errors import CirError, DataError, UsageError
from cir.types import Query, SearchResult

if TYPE_CHECKING:
    from cir.search.searcher import Searcher


@click.command()
@index_argument
@click.argument("batch", required=False, metavar="[-]")
@click.option(
    "-i", "--image", "references", multiple=True, metavar="REF", help="Reference: an image file or a gallery id."
)
@click.option("-t", "--text", default="", metavar="TEXT", help='What to change: "in red, with long sleeves".')
@click.option(
    "--not",
    "negatives",
    multiple=True,
    metavar="TEXT",
    help="What is less wanted: a preference, not a filter. May be repeated.",
)
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="How many images.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only images with this metadata. May be repeated.")
@click.option("--exact", is_flag=True, help="Compare with every image instead of the best candidates.")
@click.option("--paths", is_flag=True, help="Print only the files, one a line.")
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Draw the answer as a picture.")
@click.option("--model", metavar="NAME", help="Query with this model; refused unless it serves the index.")
@device_option
@model_dir_option
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
    paths: bool,
    sheet: Path | None,
    model: str | None,
    device: str,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Find images of INDEX like the references, changed as the text says.

    An image alone finds more like it, a text alone what it names. Several references are averaged. With `-` instead of
    -i and -t, queries are read from stdin as JSON lines {"references", "text", "negatives", "k", "where", "id"} and
    answered as JSON lines.

    \b
    Example:
      cir query my.index -i shirt.jpg -t "in red, with long sleeves" --sheet answer.png
      cir query my.index -t "a striped summer dress" -k 20 --paths
      cir query my.index - < queries.jsonl > answers.jsonl
    """
    quiet_libraries()
    from cir.search.searcher import open_index

    if as_json and paths:
        raise UsageError("--json and --paths exclude each other; give one")
    if batch not in (None, "-"):
        raise UsageError(f"unexpected argument {batch!r}; a reference is given with -i, a batch on stdin with -")
    if batch == "-" and (references or text or negatives or sheet or paths or where):
        raise UsageError("with - the queries come from stdin; leave out -i, -t, --not, --where, --paths and --sheet")
    opened = open_index(index, model=model, model_dirs=model_dirs, device=device)
    if batch == "-":
        return _answer_lines(opened, sys.stdin.buffer, k, exact)
    asked = Query(references, text.strip(), negatives, k, tuple(_condition(part) for part in where))
    result = opened.search(asked, exact=exact)
    if sheet:
        _draw(opened, result, sheet)
    if as_json:
        click.echo(json.dumps(to_json(result)))
    elif paths:
        for hit in result.hits:
            click.echo(hit.path or hit.id)
    else:
        click.echo(table(result), nl=bool(result.hits))
    if not result.hits:
        meets = " and ".join(f"{column} = {value}" for column, value in asked.where)
        click.echo(f"cir: nothing found{f': no image has {meets}' if meets else ''}", err=True)
    return 0 if result.hits else 1


def to_json(result: SearchResult) -> dict[str, Any]:
    """A result as plain JSON values."""
    hits = [
        {"rank": hit.rank, "id": hit.id, "score": round(hit.score, 6), "path": hit.path, "metadata": dict(hit.metadata)}
        for hit in result.hits
    ]
    asked = result.query
    return {
        "id": asked.id,
        "references": [str(reference) for reference in asked.references],
        "text": asked.text,
        "negatives": list(asked.negatives),
        "model": result.model,
        "searched": result.searched,
        "unsearched": result.unsearched,
        "seconds": round(result.seconds, 4),
        "fits": result.fits,
        "hits": hits,
    }


def table(result: SearchResult) -> str:
    """Rank, score, id and metadata, aligned."""
    width = max((len(hit.id) for hit in result.hits), default=0)
    lines = []
    for hit in result.hits:
        metadata = ", ".join(value for value in hit.metadata.values() if value)
        lines.append(f"{hit.rank:>4}  {hit.score:.4f}  {hit.id:<{width}}  {metadata}".rstrip())
    if result.unsearched:
        lines.append(
            f"{result.unsearched:,} images were not searched: nothing measured leads to their vectors (cir info)"
        )
    if result.fits is False:
        lines.append(
            "unsure that anything fits: right answers of this model usually score higher than the best hit here"
        )
    return "\n".join(lines)


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not column.strip():
        raise UsageError(f"--where {text!r}: write COLUMN=VALUE")
    return column.strip(), value.strip()


def _draw(opened: Searcher, result: SearchResult, path: Path) -> None:
    from cir.sheet import draw_sheet, save_sheet

    save_sheet(draw_sheet(result, opened.picture), path)


def _answer_lines(opened: Searcher, lines: Iterable[bytes], k: int, exact: bool) -> int:
    """One answer a line, in order; a bad line is answered with its error and makes the exit code 2, no hit at all 1."""
    _ = opened.encoder  # a model that is not there is one error, not one a line
    bad = hits = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        identity = None
        try:
            values = _values(line)
            identity = values.get("id")
            answer = to_json(opened.search(_parse(values, k), exact=exact)) | {"id": identity}
            hits += len(answer["hits"])
        except CirError as error:
            answer = {"id": identity, "error": f"line {number}: {error}"}
            bad += 1
        click.echo(json.dumps(answer))
        sys.stdout.flush()
    if bad:
        click.echo(f"cir: {bad:,} lines could not be asked; their answers say why", err=True)
    return 2 if bad else 0 if hits else 1


def _values(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError('not a query; write {"references": ["a.jpg"], "text": "in red"}')
    return values


def _parse(values: dict[str, Any], k: int) -> Query:
    known = {"references", "text", "negatives", "k", "where", "id"}
    if extra := sorted(values.keys() - known):
        raise DataError(f"unknown key {', '.join(extra)}; there are: {', '.join(sorted(known))}")
    where = values.get("where", {})
    count = values.get("k", k)
    plain = isinstance(where, dict) and all(isinstance(value, str | int) for value in where.values())
    if not plain or any(isinstance(value, bool) for value in where.values()):
        raise DataError('"where" is an object of column and value, a string or a whole number')
    if not isinstance(count, int) or isinstance(count, bool):
        raise DataError('"k" is a whole number')
    text = values.get("text", "")
    if not isinstance(text, str):
        raise DataError('"text" is a string')
    identity = values.get("id")
    return Query(
        references=tuple(_strings(values, "references")),
        text=text.strip(),
        negatives=tuple(_strings(values, "negatives")),
        k=count,
        where=tuple((column, str(value)) for column, value in where.items()),
        id=None if identity is None else str(identity),
    )


def _strings(values: dict[str, Any], key: str) -> Iterator[str]:
    given = values.get(key, [])
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise DataError(f'"{key}" is a list of strings')
    yield from given
