"""Progress on stderr."""

from __future__ import annotations

import sys


class ProgressBar:
    """A bar on stderr with throughput and time left; nothing if stderr is not a terminal."""

    def __init__(self, title: str, *, unit: str = "images") -> None:
        self._title = title
        self._unit = unit
        self._bar: object | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        from tqdm import tqdm

        if self._bar is None:
            hidden = not sys.stderr.isatty()
            self._bar = tqdm(total=total, desc=self._title, unit=f" {self._unit}", disable=hidden, leave=False)
        bar: tqdm = self._bar
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
