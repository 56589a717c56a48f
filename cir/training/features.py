"""Feature maps of the frozen trunk, computed once and kept: training then never touches a pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from cir import devices

Floats16 = NDArray[np.float16]


def cached(
    path: Path, count: int, pixels: Callable[[int], NDArray[np.float32]], trunk: nn.Module, *, batch_size: int = 64
) -> Floats16:
    """The trunk's maps of `count` images as (count, P, W) float16, read from `path` or computed and written there.

    Args:
        path: a .npy file; it is written under another name first, so that it is complete when it is there.
        pixels: index -> (3, H, W) float32; called from several threads.
    """
    if path.is_file():
        kept: Floats16 = np.load(path)
        if len(kept) != count:
            raise ValueError(f"{path} holds {len(kept)} images, not {count}; delete it")
        return kept
    device = devices.choose()
    trunk = trunk.to(device).eval()
    temporary = path.with_suffix(".tmp.npy")
    maps = None
    with (
        torch.inference_mode(),
        devices.trunk_autocast(device),
        ThreadPoolExecutor(4) as pool,
    ):
        for start in tqdm(range(0, count, batch_size), desc=path.stem, unit="batch", mininterval=10):
            rows: Sequence[int] = range(start, min(start + batch_size, count))
            batch = torch.from_numpy(np.stack(list(pool.map(pixels, rows)))).to(device)
            out = trunk(batch).float().cpu().numpy()
            if maps is None:
                maps = np.lib.format.open_memmap(temporary, "w+", np.float16, (count, *out.shape[1:]))
            maps[start : start + len(out)] = out
    if maps is None:
        raise ValueError(f"no images to compute {path} from")
    maps.flush()
    temporary.rename(path)
    return np.asarray(maps)
