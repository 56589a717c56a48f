"""Methods that see one generation of an index from start to end, whatever is refreshed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Refreshable(Protocol):
    """An object that may go on to another generation at any moment."""

    def _fixed(self) -> Self:
        """The same object as it is now, for good."""


S = TypeVar("S", bound=Refreshable)


def on_one_generation(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that runs on the generation that was open when it was called."""

    @wraps(method)
    def call(refreshable: S, /, *args: P.args, **options: P.kwargs) -> R:
        return method(refreshable._fixed(), *args, **options)

    return call
