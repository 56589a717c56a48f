"""The options of commands that can encode on a Ray cluster. Ray is imported where it is wanted, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir.errors import UsageError
from cir.threads import default_workers

if TYPE_CHECKING:
    from cir.indexer.writing.spreading import Spread

Command = Callable[..., Any]


def ray_options(command: Command) -> Command:
    """--ray and --processes."""
    for option in (
        click.option(
            "--processes",
            type=click.IntRange(1, 100_000),
            help="With --ray: encode in at most this many processes.  [default: as many as a trial finds worth it]",
        ),
        click.option(
            "--ray",
            "address",
            metavar="ADDRESS",
            help="Encode on Ray: local for processes on this machine, auto for the cluster that it is part of, or "
            "HOST:PORT of a cluster's head.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def spreading(
    address: str | None,
    processes: int | None,
    model: str | Path,
    *,
    device: str = "auto",
    model_dirs: Sequence[Path] = (),
    threads: int | None = None,
) -> Iterator[Spread | None]:
    """What encodes, while the context lasts; None without --ray.

    Args:
        address: of --ray.
        processes: of --processes.
        model: name or folder of the model.
        device, model_dirs: as the command has them.
        threads: of each process; by its share of its machine if None.

    Raises:
        UsageError: --processes without --ray, or not an address.
        MissingDependencyError: Ray is not installed.
        DataError: there is no cluster.
    """
    if address is None:
        if processes:
            raise UsageError("--processes is for --ray; without it --workers sets the number of threads")
        yield None
        return
    from cir.cluster.encoding import RaySpread
    from cir.cluster.session import joined
    from cir.models import load_model

    cores = max(default_workers(), (processes or 1) * (threads or 1))
    with joined(address, cores) as ray:
        make_encoder = partial(load_model, model, device=device, model_dirs=tuple(model_dirs))
        yield RaySpread(ray, make_encoder, processes, threads, use_gpus=device in ("auto", "cuda"))
