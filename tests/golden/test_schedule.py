"""The official recipes' learning rate and momentum, step by step, as the official code recorded them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cir.training.loop import Recipe
from cir.training.schedule import OneCycle

RECORDED = json.loads((Path(__file__).parent / "data" / "schedule.json").read_text())
RECIPES = {
    "fiq": Recipe(learning_rate=2e-5, epochs=30, one_cycle=OneCycle(rise=1.5 / 30, start_divisor=100, epochs=30)),
    # The cycle is of 80 epochs, of which 50 are trained.
    "cirr": Recipe(learning_rate=1e-5, epochs=50, one_cycle=OneCycle(rise=1 / 50, start_divisor=25, epochs=80)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_rate_and_momentum_are_the_official_ones(name: str) -> None:
    recipe = RECIPES[name].over(10)
    assert recipe.steps == len(RECORDED[name])
    for step, rate, beta1, beta2 in RECORDED[name]:
        assert recipe.pace(step) == pytest.approx((rate, beta1), rel=1e-9)
        assert recipe.betas[1] == beta2
