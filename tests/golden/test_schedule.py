"""The official recipes' learning rate and momentum, step by step, as the official code recorded them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cir.training.config import read_config
from cir.training.triplets import TripletBatches

RECORDED = json.loads((Path(__file__).parent / "data" / "schedule.json").read_text())
SHIPPED = {"fiq": "fashioniq", "cirr": "cirr"}


@pytest.mark.parametrize("name", SHIPPED)
def test_rate_and_momentum_are_the_official_ones(name: str) -> None:
    recipe = read_config(SHIPPED[name]).recipe.over(10)
    assert recipe.steps == len(RECORDED[name])
    for step, rate, beta1, beta2 in RECORDED[name]:
        assert recipe.pace(step) == pytest.approx((rate, beta1), rel=1e-9)
        assert recipe.betas[1] == beta2


def test_the_rest_of_the_shipped_recipes_is_the_official_one() -> None:
    fashioniq, cirr = read_config("fashioniq"), read_config("cirr")
    for config in (fashioniq, cirr):
        assert (config.recipe.eps, config.recipe.weight_decay, config.recipe.clip) == (1e-7, 0.05, 0.0)
        assert isinstance(config.batches, TripletBatches)
        assert config.batches.batch == 128
    assert (fashioniq.recipe.epochs, cirr.recipe.epochs) == (30, 50)
    # FashionIQ's trainer never reads the weights of the losses, CIRR's takes its defaults.
    assert (fashioniq.batches.rtc_weight, fashioniq.batches.align_weight) == (1.0, 1.0)
    assert (cirr.batches.rtc_weight, cirr.batches.align_weight) == (0.4, 0.4)


def test_the_recorded_schedule_is_the_oracle(shared: Path) -> None:
    assert json.loads((shared / "oracles" / "sprc-tiny" / "schedule.json").read_text()) == RECORDED
