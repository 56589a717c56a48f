"""A person says of each hit whether it is right, on a terminal or by lines on standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.errors import DataError, UsageError
from cir.images.names import shown

if TYPE_CHECKING:
    from cir.data.judged_query import JudgedQuery
    from cir.indexer.reading.gallery import Gallery
    from cir.replacement.study import StudyOptions
    from cir.search.searcher import Searcher
    from cir.types import Encoder

RIGHT, WRONG, SKIP, QUIT = "y", "n", "s", "q"


class Judge:
    """Asks about hits and keeps each answer at once.

    Args:
        gallery: the index, which keeps the marks.
        models: digests of the models among whose hits they are.

    Attributes:
        marks: answers that were kept.
        stopped: whether the person wants to stop, or the input is at its end.
    """

    def __init__(self, gallery: Gallery, models: Sequence[str]) -> None:
        self._gallery, self._models = gallery, models
        self._line = 0
        self.marks = 0
        self.stopped = False

    def ask(self, query: JudgedQuery, images: Iterable[str]) -> None:
        """Ask about each image of one query, until the person stops.

        Raises:
            UsageError: a line that is no answer, where standard input is no terminal.
            DataError: the index cannot be written to, or standard input not be read.
        """
        from cir.replacement.marked import mark

        for rank, image in enumerate(images, start=1):
            answer = "" if self.stopped else self._answer(f"{rank:>4}  {shown(image)}")
            if answer == QUIT:
                self.stopped = True
            if self.stopped:
                return
            if answer in (RIGHT, WRONG):
                mark(self._gallery, query, image, self._models, right=answer == RIGHT)
                self.marks += 1

    def _answer(self, about: str) -> str:
        person = sys.stdin is not None and sys.stdin.isatty()
        while True:
            click.echo(f"{about}  right? [y]es, [n]o, [s]kip, [q]uit: ", nl=not person, err=True)
            try:
                line = sys.stdin.readline() if sys.stdin else ""
            except (OSError, ValueError) as error:  # also no text
                raise DataError(f"standard input cannot be read: {error}; the marks so far are kept") from None
            self._line += 1
            answer = line.strip().lower()[:1] or SKIP
            if not line:
                return QUIT
            if answer in (RIGHT, WRONG, SKIP, QUIT):
                return answer
            if not person:
                raise UsageError(
                    f"standard input, line {self._line}: {line.strip()!r} is no answer; write y, n, s or q. The "
                    f"{self.marks:,} marks before it are kept"
                )


def judge_pools(searcher: Searcher, encoder: Encoder, options: StudyOptions, sheet: Path | None) -> None:
    """Ask about the first ten of both models for every marked query; nobody is shown which model found what.

    Args:
        searcher: the index, with its models.
        encoder: the new model.
        options: of the study that will follow.
        sheet: where the pool of each query is drawn before it is asked about.

    Raises:
        UsageError: too few marked queries, a model that cannot succeed, or a line that is no answer.
        MissingImageError: hardly any query has its photos.
    """
    from cir.cli.progress import ProgressBar
    from cir.replacement.collect import SampleCollector
    from cir.replacement.marked import marked
    from cir.replacement.pool import pools
    from cir.replacement.study import older_spaces

    gallery = searcher.gallery
    spaces = older_spaces(gallery, encoder.card)
    collector = SampleCollector(searcher, encoder, options.sample, ProgressBar("encoding the sample"))
    given = pools(collector, spaces, marked(gallery).queries, options.seed)
    images = sum(len(pool.unjudged) for pool in given)
    click.echo(f"cir: {images:,} images to judge for {len(given):,} queries", err=True)
    person, whole = Judge(gallery, [gallery.card.digest, encoder.card.digest]), 0
    for number, pool in enumerate(given, start=1):
        if sheet:
            _draw(searcher, pool.query, pool.unjudged, sheet)
        like = f"like {shown(pool.query.reference)}: " if pool.query.reference else ""
        click.echo(f"{number} of {len(given):,}. {like}{shown(pool.query.caption)}", err=True)
        before = person.marks
        person.ask(pool.query, pool.unjudged)
        whole += person.marks - before == len(pool.unjudged)
        if person.stopped:
            break
    click.echo(f"{gallery.folder}: {person.marks:,} marks kept; {len(given) - whole:,} queries are left to judge")
    click.echo(f"next: `cir questions {gallery.folder} --from-marks`, then measure")


def _draw(searcher: Searcher, query: JudgedQuery, images: Sequence[str], sheet: Path) -> None:
    """The pool of one query; ranks are places in it, and nothing tells which model found what."""
    from cir.sheet import MIN_SIDE, draw_sheet, save_sheet
    from cir.types import Hit, SearchResult

    hits = tuple(Hit(rank, image, 0.0) for rank, image in enumerate(images, start=1))
    result = SearchResult(query.query, hits, len(hits), model="", seconds=0.0)
    save_sheet(draw_sheet(result, lambda name: searcher.picture(name, MIN_SIDE), scores=False), sheet)
