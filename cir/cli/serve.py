"""`cir serve`"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import (
    device_option,
    index_argument,
    model_dir_option,
    quiet_libraries,
    search_device_option,
    trust_roots_option,
)
from cir.errors import DataError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from cir.cluster.searching import Parts
    from cir.search.searcher import Searcher
    from cir.serve.pools import Pools

TOKEN = "CIR_TOKEN"
_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_LONGEST_TOKEN = 1000
DEADLINE = 1000  # milliseconds


@click.command()
@index_argument
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that clients must show; or set CIR_TOKEN. Needed where other machines can reach it.",
)
@click.option(
    "--allow-anyone",
    is_flag=True,
    help="No token, although other machines can reach the server: whoever can, searches.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A further name under which clients reach the server, such as that of a proxy. May be repeated.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address of a proxy in front of the server, whose word about a client's address is taken. May be repeated.",
)
@click.option(
    "--max-upload",
    default=32,
    show_default=True,
    metavar="MB",
    type=click.IntRange(1, 1000),
    help="Of all pictures of one request.",
)
@click.option(
    "--rate",
    default=50.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Searches per second and client, on average; ten times as many for pictures. 0 for no limit.",
)
@click.option(
    "--thumbnails",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for thumbnails, which is kept below --thumbnails-size.  [default: INDEX.thumbnails; of an index in a "
    "store, in the cache]",
)
@click.option(
    "--thumbnails-size",
    default=1000,
    show_default=True,
    metavar="MB",
    type=click.IntRange(0),
    help="What thumbnails may take; 0 keeps none.",
)
@click.option(
    "--judge-pool",
    metavar="MODEL",
    help="Let people judge the first ten of both models for every marked query, as `cir replace-model --judge-pool` "
    "does on a terminal.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Search the gallery on Ray: local for processes on this machine, auto for the cluster that it is part of, or "
    "HOST:PORT of a cluster's head.",
)
@click.option(
    "--parts",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="With --ray: how many parts the segments of INDEX are spread over.  [default: one for each node, at least 2]",
)
@click.option(
    "--replicas",
    default=1,
    show_default=True,
    type=click.IntRange(1, 100),
    metavar="N",
    help="With --ray: processes that hold each part, on different nodes where possible.",
)
@click.option(
    "--deadline",
    default=DEADLINE,
    show_default=True,
    type=click.IntRange(1, 60_000),
    metavar="MS",
    help="With --ray: how long a search waits for its parts. Then it goes on without those that are missing, and the "
    "answer says which share of the gallery it covers.",
)
@click.option("--log-queries", is_flag=True, help="Log texts and names of pictures too.")
@click.option("--model", metavar="NAME", help="The index's own model, if it is not located by itself.")
@device_option
@search_device_option
@model_dir_option
@trust_roots_option
def serve(
    index: Path,
    host: str,
    port: int,
    token_file: Path | None,
    allow_anyone: bool,
    allowed_hosts: tuple[str, ...],
    trusted_proxies: tuple[str, ...],
    max_upload: int,
    rate: float,
    thumbnails: Path | None,
    thumbnails_size: int,
    judge_pool: str | None,
    ray: str | None,
    parts: int | None,
    replicas: int,
    deadline: int,
    log_queries: bool,
    model: str | None,
    device: str,
    search_device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
) -> None:
    """Search INDEX in the browser, and by other programs.

    Prints the address of the page once it answers, and runs until it is stopped. Programs use the API under
    /api/v1, described at /api/v1/openapi.json, or `cir.client` in Python. What is built meanwhile is picked up.

    Only this machine can reach it unless --host says otherwise, and then it needs a token. Photos are read only where
    they were indexed. Needs the extra `serve`: pip install 'cir-engine[serve]'.

    With --ray the segments of a gallery that is too large for one machine are searched by processes of a Ray cluster,
    which all reach INDEX at the same place; the answers are the same. Needs the extra `ray` too.

    \b
    Example:
      cir serve my.index
      cir serve my.index --host 0.0.0.0 --token-file token.txt --allowed-host pictures.example.org
      cir serve my.index --ray local --parts 4 --replicas 2
      curl -F references=@shirt.jpg -F text="in red" http://127.0.0.1:8000/api/v1/search
    """
    quiet_libraries()
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise MissingDependencyError(
            f"`cir serve` needs {', '.join(missing)}; install the extra: pip install 'cir-engine[serve]'"
        )
    from cir.indexer.storage.mirror import folder_at
    from cir.search import open_index
    from cir.serve.server import bind, url_of
    from cir.serve.server import serve as run
    from cir.serve.service import Service
    from cir.serve.settings import Limits, Settings, check_token

    token = _token(token_file)
    check_token(host, token, anyone=allow_anyone)
    beside = folder_at(index).root.absolute()
    folder = thumbnails or beside.with_name(f"{beside.name}.thumbnails")
    settings = Settings(
        host=host,
        port=port,
        token=token,
        allowed_hosts=frozenset(allowed_hosts),
        trusted_proxies=trusted_proxies,
        limits=Limits(upload_bytes=max_upload * 1_000_000, rate=rate),
        thumbnails=folder if thumbnails_size else None,
        thumbnail_bytes=thumbnails_size * 1_000_000,
        log_queries=log_queries,
    )

    def opened(spread: Parts | None) -> Searcher:
        return open_index(
            index,
            model=model,
            model_dirs=model_dirs,
            device=device,
            search_device=search_device,
            trust_roots=trust_roots,
            spread=spread,
        )

    spread_over = _spread(ray, index, parts, replicas, deadline, search_device)
    with bind(settings) as bound, spread_over as spread:
        pools = _pools(lambda: opened(spread), judge_pool, device, model_dirs) if judge_pool else None
        service = Service(opened(spread), settings, pools)
        service.engine.warm_up()
        logging.getLogger("cir.serve").setLevel(logging.INFO)
        run(service, bound, lambda: click.echo(url_of(settings, bound)))


def _token(file: Path | None) -> str | None:
    """The token of a file, or of the environment. Raises DataError or UsageError."""
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        with file.open("rb") as opened:
            token = opened.read(_LONGEST_TOKEN + 1).decode("ascii").strip()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: a token is printable ASCII; make one: openssl rand -hex 16") from None
    if not token:
        raise UsageError(f"{file}: there is no token in it; make one: openssl rand -hex 16")
    return token


@contextmanager
def _spread(
    ray: str | None, index: Path, parts: int | None, replicas: int, deadline: int, device: str
) -> Iterator[Parts | None]:
    """Who searches the segments in place of this process, if that is wanted."""
    if ray is None:
        if parts is not None or replicas != 1 or deadline != DEADLINE:
            raise UsageError("--parts, --replicas and --deadline are about --ray, which is not given; add --ray local")
        yield None
        return
    from cir.cluster.session import joined

    os.environ.setdefault("RAY_worker_niceness", "0")  # else actors on this machine run 15 below what waits for them
    with joined(ray):
        from cir.cluster.searching import Parts

        with Parts(index, parts=parts, replicas=replicas, deadline=deadline / 1000, device=device) as spread:
            yield spread


def _pools(opened: Callable[[], Searcher], name: str, device: str, model_dirs: tuple[Path, ...]) -> Pools:
    from cir import models
    from cir.serve.pools import Pools

    return Pools(opened(), lambda: models.load_model(name, device=device, model_dirs=model_dirs), name)
