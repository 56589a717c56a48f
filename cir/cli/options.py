"""Options that several commands share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cir.errors import UsageError

Command = Callable[..., Any]

device_option = click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or mps: where the model runs."
)
search_device_option = click.option(
    "--search-device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, cpu, cuda or mps: where a large gallery is compared with the query.",
)
model_dir_option = click.option(
    "--model-dir",
    "model_dirs",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder in which models are located by name or digest. May be repeated; CIR_MODELS adds more.",
)
trust_roots_option = click.option(
    "--trust-roots",
    is_flag=True,
    help="Read photos also below folders that you have not indexed on this machine. `cir info` lists the folders; "
    "somebody else may have made the index.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class _Place(click.Path):
    """A path, or the URL of a place in an object store."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        from cir.places import UrlPath, is_url, url_of

        if isinstance(value, str) and is_url(value):
            return UrlPath(url_of(value))
        return super().convert(value, parameter, context)


PLACE = _Place(path_type=Path)


def quiet_libraries() -> None:
    """Keep libraries from writing to stderr and from contacting a hub; called before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's C++ side does not use Python's warnings
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF, large pictures: what matters becomes an error


def index_argument(command: Command) -> Command:
    """The index folder; the package reports what is wrong with it, in one line."""
    return click.argument("index", type=PLACE)(command)


def columns_of(given: Sequence[str], option: str) -> dict[str, str]:
    """Repeated KIND=COLUMN as kind of change -> metadata column. Raises UsageError."""
    pairs = [text.partition("=") for text in given]
    if not all(kind and column for kind, _, column in pairs):
        raise UsageError(f"{option}: write KIND=COLUMN, such as colour=baseColour")
    columns = {kind: column for kind, _, column in pairs}
    if len(columns) < len(pairs):
        raise UsageError(f"{option}: a KIND is given twice; give each kind one column")
    return columns
