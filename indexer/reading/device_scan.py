"""Exact search on an accelerator, by torch: rows in float16, then exact scores of those that may be among the best.

As many rows as fit stay in the memory of the device; the others are sent there block by block for every search.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored
from cir.indexer.reading.exact import Best
from cir.indexer.reading.kernels import SLACK

if TYPE_CHECKING:
    import torch

MIN_BYTES = 64 * 1024 * 1024  # fewer are scanned by the CPU before the device has answered
_BLOCK_BYTES = 256 * 1024 * 1024
# Tensor cores sum in float16 if torch lets them, and give the product in it.
_HALF_SLACK = 2e-3
_PAIRS = 4096  # of row and query, whose exact scores are summed at once
_GPU_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # of NVIDIA's driver, on Linux and on its Windows subsystem


def search_device(name: str) -> torch.device | None:
    """The accelerator on which to search; None for the CPU. torch is loaded only if there may be one.

    Args:
        name: "auto", "cpu", "cuda" or "mps".

    Raises:
        UsageError: the device is unknown, or this machine does not have it.
    """
    likely = "torch" in sys.modules or sys.platform == "darwin" or any(file.exists() for file in _GPU_FILES)
    if name == "cpu" or (name == "auto" and not likely):
        return None
    from cir import devices

    device = devices.choose(name)
    return None if device.type == "cpu" else device


class DeviceScan:
    """Exact scans of some rows on a device.

    Args:
        stored: (N, D) vectors, or (N, T, D) tokens, whose maximum over T counts.
        device: where to scan.
        room: bytes of rows that stay there; half of what is free if None.
        block_rows: rows that are multiplied at once.
    """

    def __init__(
        self, stored: Stored, device: torch.device, *, room: int | None = None, block_rows: int | None = None
    ) -> None:
        self._stored = stored.reshape(len(stored), -1, stored.shape[-1])
        self._device = device
        self._step = block_rows or max(1, _BLOCK_BYTES // max(1, stored[:1].nbytes))
        room = _free_bytes(device) // 2 if room is None else room  # models and products need some, too
        self._resident: dict[int, torch.Tensor] = {}  # first row -> block
        for start in range(0, len(stored), self._step):
            room -= stored[start : start + self._step].nbytes
            if room < 0:
                break
            self._resident[start] = self._sent(start)

    def scan(self, queries: Floats, count: int, usable: Mask | None = None) -> list[Rows]:
        """As `exact.scan`."""
        import torch

        best = Best(count, np.full(len(queries), SLACK, np.float32))
        asked = torch.from_numpy(np.ascontiguousarray(queries)).to(self._device)
        margin = 2 * self._slack(asked)
        cut = torch.full_like(margin, -torch.inf)
        for start in range(0, len(self._stored), self._step):
            block = self._resident[start] if start in self._resident else self._sent(start)
            rough = (block.flatten(0, 1) @ asked.T.to(block.dtype)).float()
            rough = rough.view(*block.shape[:2], -1).amax(dim=1)
            if usable is not None:
                counted = torch.from_numpy(usable[start : start + len(block)]).to(self._device)
                rough[~counted] = -torch.inf
            if len(block) >= count:
                cut = torch.maximum(cut, rough.topk(count, dim=0).values[-1] - margin)
            rows, numbers = torch.nonzero((rough >= cut) & rough.isfinite(), as_tuple=True)
            for first in range(0, len(rows), _PAIRS):
                few = slice(first, first + _PAIRS)
                scores = (block[rows[few]].float() * asked[numbers[few], None]).sum(dim=-1).amax(dim=1)
                best.extend(start + rows[few].cpu().numpy(), numbers[few].cpu().numpy(), scores.cpu().numpy())
        return best.rows()

    def _slack(self, asked: torch.Tensor) -> torch.Tensor:
        """(B,) how far a product in the precision of the rows may be off."""
        rounded = (asked - asked.to(self._kind).float()).norm(dim=1)
        slack: torch.Tensor = 1.01 * rounded + (_HALF_SLACK if self._stored.dtype == np.float16 else SLACK)
        return slack

    @property
    def _kind(self) -> torch.dtype:
        import torch

        return torch.float16 if self._stored.dtype == np.float16 else torch.float32

    def _sent(self, start: int) -> torch.Tensor:
        """(n, T, D) the block that begins at a row, on the device."""
        import torch

        # A copy: torch wants memory that may be written to, and mapped rows may not.
        return torch.from_numpy(np.array(self._stored[start : start + self._step])).to(self._device)


def _free_bytes(device: torch.device) -> int:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 0
