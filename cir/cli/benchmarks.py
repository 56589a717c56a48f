"""What `evaluate`, `score` and `compare` share: the names of the benchmarks, and the options that load them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir.errors import UsageError

if TYPE_CHECKING:
    from cir.data.benchmark import Benchmark

Command = Callable[..., Any]

# The keys of cir.data.protocols.PROTOCOLS and TRAIN_SPLITS, as a test checks: importing those would slow every command.
OFFICIAL = (
    *("fashioniq-val", "fashioniq-val-union", "cirr-val", "cirr-test1", "circo-val", "circo-test"),
    *("genecis-focus-object", "genecis-change-object", "genecis-focus-attribute", "genecis-change-attribute"),
    *("genecis", "shoes-eval", "fashion200k-test", "icir"),
)
TRAIN_SPLITS = ("fashioniq-train", "cirr-train")
BENCHMARKS = ("products", "wardrobe", "flickr8k", "flickr8k-mined", "jsonl", *OFFICIAL)


@dataclass(frozen=True)
class BenchmarkOptions:
    """Which benchmark to load, and from where."""

    name: str
    data_root: Path | None
    split: str
    images: str | None
    queries: Path | None
    keep_reference: bool

    @property
    def official(self) -> bool:
        """Whether it has an official protocol."""
        return self.name in OFFICIAL

    def load(self, scratch: Path | None = None, *, pictures: bool = True, allow_missing: bool = False) -> Benchmark:
        """The benchmark.

        Args:
            scratch: folder in which a wardrobe may be drawn; without it a wardrobe needs --data-root.
            pictures: whether they are needed.
            allow_missing: accept missing pictures, where the benchmark names its pictures.

        Raises:
            UsageError: an option is missing.
            DataError: files are missing or malformed.
        """
        from cir.data.attribute_benchmarks import load_products, load_wardrobe
        from cir.data.captioned_benchmarks import load_captioned, load_mined
        from cir.data.jsonl import load_jsonl
        from cir.data.protocols import load_official

        root = self.data_root
        if self.name == "wardrobe" and root is None and scratch is not None:
            return load_wardrobe(scratch / "wardrobe")
        if root is None:
            raise UsageError(f"{self.name} needs --data-root, the folder of its {'pictures' if pictures else 'data'}")
        if self.official:
            return load_official(self.name, root, pictures=pictures, allow_missing=allow_missing)
        if self.name == "products":
            return load_products(root, split=self.split, images=self.images)
        if self.name in ("flickr8k", "flickr8k-mined"):
            load = load_captioned if self.name == "flickr8k" else load_mined
            return load(root, split=self.split, images=self.images, allow_missing=allow_missing)
        if self.name == "wardrobe":
            return load_wardrobe(root)
        if self.queries is None:
            raise UsageError("jsonl needs --queries, a file with one judged query per line")
        return load_jsonl(self.queries, root, keep_reference=self.keep_reference)


_DATA_ROOT = "Folder (for jsonl also a zip) of the data set."
_OPTIONS = (
    click.option(
        "--split",
        default="val",
        show_default=True,
        type=click.Choice(["val", "test", "train"]),
        help="products, flickr8k, flickr8k-mined: which split. Choose on val, report test.",
    ),
    click.option(
        "--images",
        metavar="NAME",
        help="The same: folder or zip of the pictures in --data-root.  [default: the largest pictures]",
    ),
    click.option("--queries", type=click.Path(path_type=Path), help="jsonl: file with one judged query per line."),
    click.option("--keep-reference", is_flag=True, help="jsonl: leave the reference in the ranking."),
)


def benchmark_options(command: Command) -> Command:
    """The options that locate a benchmark; the command gets them, with its name, as `source`."""

    @wraps(command)
    def with_source(
        benchmark: str,
        data_root: Path | None,
        split: str,
        images: str | None,
        queries: Path | None,
        keep_reference: bool,
        **others: Any,
    ) -> Any:
        return command(source=BenchmarkOptions(benchmark, data_root, split, images, queries, keep_reference), **others)

    for option in reversed(_OPTIONS):
        with_source = option(with_source)
    return click.option("--data-root", type=click.Path(path_type=Path), help=_DATA_ROOT)(with_source)


def several_benchmarks(command: Command) -> Command:
    """Names of benchmarks and the options that locate them; the command gets `sources`, one for each."""

    @wraps(command)
    def with_sources(
        benchmarks: tuple[str, ...],
        data_roots: Sequence[str],
        split: str,
        images: str | None,
        queries: Path | None,
        keep_reference: bool,
        **others: Any,
    ) -> Any:
        roots = _roots_of(benchmarks, data_roots)
        sources = [
            BenchmarkOptions(name, roots.get(name), split, images, queries, keep_reference) for name in benchmarks
        ]
        return command(sources=sources, **others)

    for option in reversed(_OPTIONS):
        with_sources = option(with_sources)
    with_sources = click.option(
        "--data-root",
        "data_roots",
        multiple=True,
        metavar="[NAME=]FOLDER",
        help=f"{_DATA_ROOT} With several benchmarks: NAME=FOLDER for each, where NAME is a benchmark, or what stands "
        "before its first dash (genecis, cirr).",
    )(with_sources)
    return click.argument(
        "benchmarks", metavar="BENCHMARK[,BENCHMARK...]", callback=lambda context, parameter, value: _names(value)
    )(with_sources)


def benchmark_argument(command: Command) -> Command:
    """The name of a benchmark."""
    return click.argument("benchmark", type=click.Choice(BENCHMARKS))(command)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in BENCHMARKS:
            raise click.BadParameter(f"{name!r} is no benchmark; there are {', '.join(BENCHMARKS)}")
    if len(set(names)) < len(names):
        raise click.BadParameter("a benchmark is named twice; name each once")
    return names


def _roots_of(benchmarks: Sequence[str], given: Sequence[str]) -> dict[str, Path]:
    """Benchmark -> its folder; a folder without a name is for all that have none of their own. Raises UsageError."""
    named: dict[str, Path] = {}
    for value in given:
        name, equals, folder = value.partition("=")
        if not equals or name not in _ROOT_NAMES:
            name, folder = "", value
        if name in named:
            where = f"for {name}" if name else "without NAME="
            raise UsageError(f"--data-root is given twice {where}; give each benchmark one folder")
        if name and not any(name in (benchmark, _set_of(benchmark)) for benchmark in benchmarks):
            raise UsageError(f"--data-root {value}: {name} is not evaluated; name the benchmarks of this call")
        named[name] = Path(folder)
    roots = {name: named.get(name, named.get(_set_of(name), named.get(""))) for name in benchmarks}
    return {name: root for name, root in roots.items() if root is not None}


def _set_of(benchmark: str) -> str:
    """The data set of a benchmark, for --data-root."""
    return benchmark.partition("-")[0]


_ROOT_NAMES = {*BENCHMARKS, *map(_set_of, BENCHMARKS)}
