"""Training in small: the losses teach, mirrored maps are mirrored, features are computed once."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cir.catalogue import Catalogue, Item
from cir.models import weights
from cir.training import small
from cir.training.features import cached

KINDS = ("colour", "type")


@pytest.fixture
def source() -> small.Source:
    """Items whose maps show their attributes plainly."""
    numbers = np.random.default_rng(0)
    values = {"colour": ["red", "blue"], "type": ["long", "sleeves"]}
    items, maps = [], []
    looks = {value: numbers.standard_normal(32) for kind in values.values() for value in kind}
    for number in range(40):
        colour, kind = values["colour"][number % 2], values["type"][number // 2 % 2]
        items.append(Item(f"{number:02d}", {"colour": colour, "type": kind, "pattern": "plain"}))
        maps.append(looks[colour] + looks[kind] + 0.1 * numbers.standard_normal((4, 32)))
    rows = {item.id: row for row, item in enumerate(items)}
    shares = {("colour",): 0.5, ("type",): 0.5}
    return small.Source("toy", Catalogue(items, KINDS), np.array(maps, np.float16), rows, shares)


def test_the_losses_teach(source: small.Source, tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model, _, _ = weights.load(make_model(tmp_path / "toy-1", seed=0))
    model.requires_grad_(True)
    before = small.held_out_recall(model, source, queries=60)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng, numbers = random.Random(0), np.random.default_rng(0)
    for _ in range(120):
        loss = small.batch_losses(model, source.sample(16, rng), small.Recipe(), numbers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = small.held_out_recall(model, source, queries=60)
    for figure in ("R@1", "vector R@1"):
        assert after[figure] > before[figure] + 0.3


def test_triplets_name_an_answer(source: small.Source) -> None:
    for triplet in source.sample(50, random.Random(3)):
        reference, target = (source.catalogue.item(name) for name in (triplet.reference, triplet.target))
        changed = [kind for kind in KINDS if reference.attributes[kind] != target.attributes[kind]]
        assert len(changed) == 1
        assert source.key(triplet.reference) != source.key(triplet.target)


def test_half_of_the_maps_are_mirrored_column_by_column() -> None:
    maps = [np.arange(9, dtype=np.float16).reshape(9, 1) + 10 * number for number in range(64)]
    stacked = small._stack(maps, np.random.default_rng(0)).numpy()[:, :, 0]
    mirrored = 0
    for number, out in enumerate(stacked):
        plain = maps[number][:, 0].reshape(3, 3)
        if np.array_equal(out.reshape(3, 3), plain[:, ::-1]):
            mirrored += 1
        else:
            assert np.array_equal(out.reshape(3, 3), plain)
    assert 16 < mirrored < 48


def test_the_rate_warms_up_and_falls() -> None:
    recipe = small.Recipe(steps=100, warmup=10)
    rates = [small._rate(step, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) <= 1.01
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.02


def test_features_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def pixels(number: int) -> np.ndarray:
        calls.append(number)
        return np.full((3, 2, 2), number, np.float32)

    trunk = torch.nn.Flatten(2)  # (B, 3, 2, 2) -> (B, 3, 4)
    first = cached(tmp_path / "toy.npy", 5, pixels, trunk, batch_size=2)
    assert first.shape == (5, 3, 4)
    assert first[4].max() == 4
    assert sorted(calls) == [0, 1, 2, 3, 4]
    assert np.array_equal(cached(tmp_path / "toy.npy", 5, pixels, trunk), first)
    assert len(calls) == 5
    with pytest.raises(ValueError, match="holds 5 images, not 6"):
        cached(tmp_path / "toy.npy", 6, pixels, trunk)
