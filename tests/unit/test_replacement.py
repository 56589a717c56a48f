"""Replacing a model: what is fitted, what is measured, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cir.replacement import routes
from cir.replacement.gate import ANCHORS, Cost, Verdict, judge
from cir.replacement.measure import measure, overview
from cir.replacement.routes import Fitted
from cir.replacement.paired_sample import Study, answered, halves, ranked, scores

IMAGES, QUESTIONS, LATENT = 900, 600, 24
CHEAP, DEAR = Cost(100, 0.01, 1000), Cost(1_000_000, 40.0, 10**9)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def world(old_noise: float, new_noise: float, *, seed: int = 0, tokens: int = 0, questions: int = QUESTIONS) -> Study:
    """Images with hidden traits; a model sees them through its own random lens and its own noise.

    A question's answer is the image nearest to its wish; the last third of the images is in no question.
    """
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((IMAGES, LATENT))
    asked = images[: 2 * IMAGES // 3]
    wishes = unit(asked[rng.integers(len(asked), size=questions)] + 0.3 * rng.standard_normal((questions, LATENT)))
    references = rng.integers(len(asked), size=questions)
    nearest = scores(wishes, unit(asked))
    nearest[np.arange(questions), references] = -2
    right = np.zeros((questions, IMAGES), bool)
    right[np.arange(questions), nearest.argmax(axis=1)] = True

    def model(noise: float, dims: int) -> tuple[np.ndarray, np.ndarray]:
        lens = rng.standard_normal((LATENT, dims))
        gallery = (images + noise * rng.standard_normal(images.shape)) @ lens
        if tokens:
            gallery = gallery[:, None] + 0.1 * rng.standard_normal((IMAGES, tokens, dims))
        return unit(gallery), unit((wishes + 0.3 * noise * rng.standard_normal(wishes.shape)) @ lens)

    old_gallery, old_queries = model(old_noise, 48)
    new_gallery, new_queries = model(new_noise, 48)
    fit = rng.random(questions) < 0.5
    return Study(
        old_gallery,
        new_gallery,
        old_queries,
        new_queries,
        unit(old_queries + 0.02 * rng.standard_normal(old_queries.shape)),
        scores(old_queries, old_gallery),
        references,
        right,
        fit,
        {"half=a": np.arange(questions) < questions // 2},
    )


def verdict(study: Study, *, cost: Cost = DEAR, anchors: int | None = None, margin: float = 0.0) -> Verdict:
    tried = [make(study) for make in routes.ROUTES.values()]
    found = [measure(study, one) for one in tried if isinstance(one, Fitted)]
    count = len(study.fit) if anchors is None else anchors
    return judge(count, overview(study, routes.naive(study)), found, cost, margin=margin)


BETTER = world(old_noise=0.9, new_noise=0.2)


def test_a_better_model_serves_by_the_best_route_that_passes() -> None:
    said = verdict(BETTER)
    assert said.route in ("transform", "procrustes")
    assert f"serve the new model by {said.route}" in said.advice
    # The old encoder gains nothing, so that it is refused where a gain is asked for.
    assert any("must be above 0" in reason for reason in said.refused["encoder"])


def test_a_hair_at_ten_is_not_worth_much_at_one() -> None:
    made = routes.transform(BETTER)
    assert isinstance(made, Fitted)
    found = measure(BETTER, made)
    values = {"head": {"R@1": 0.48, "R@10": 0.86}, "transform": {"R@1": 0.42, "R@10": 0.862}}
    both = [replace(found, route=route, values=told) for route, told in values.items()]
    assert judge(QUESTIONS, overview(BETTER, None), both, DEAR).route == "head"


def test_figures_are_those_of_anchors_the_fit_did_not_see() -> None:
    fitted = routes.transform(BETTER)
    assert isinstance(fitted, Fitted)
    found = measure(BETTER, fitted)
    apart = ~BETTER.fit
    hits = BETTER.right[apart][np.arange(apart.sum())[:, None], ranked(fitted.scores, BETTER.references, 10)[apart]]
    assert found.values["R@10"] == pytest.approx(hits.any(axis=1).mean())
    now = overview(BETTER, None)["now"]["R@10"]
    assert found.gains["R@10"][0] == pytest.approx(found.values["R@10"] - now)
    assert found.gains["R@10"][1] < found.gains["R@10"][0]
    again = overview(BETTER, None)["encoded again"]["R@10"]
    assert found.recovered["R@10"] == pytest.approx(found.gains["R@10"][0] / (again - now))
    used = BETTER.right[apart].any(axis=0)
    used[BETTER.references[apart]] = True
    assert not used[BETTER.fit_images].any()
    assert len(BETTER.fit_images) >= IMAGES // 3


def test_the_fit_never_sees_what_is_measured() -> None:
    """Other vectors for what is measured change no map."""
    used = np.setdiff1d(np.arange(IMAGES), BETTER.fit_images)
    changed = BETTER.old_gallery.copy()
    changed[used] = unit(np.random.default_rng(9).standard_normal((len(used), 48)))
    for make in (routes.transform, routes.procrustes):
        before, after = make(BETTER), make(replace(BETTER, old_gallery=changed))
        assert isinstance(before, Fitted)
        assert isinstance(after, Fitted)
        assert before.matrix is not None
        assert np.array_equal(before.matrix, after.matrix)


def test_silent_mixing_is_chance_and_never_a_route() -> None:
    naive = routes.naive(BETTER)
    assert naive
    assert overview(BETTER, naive)["naive"]["R@10"] < 0.06
    assert "naive" not in routes.ROUTES
    assert routes.naive(replace(BETTER, new_queries=BETTER.new_queries[:, :40])) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_is_no_better_is_refused(seed: int) -> None:
    equal = verdict(world(0.5, 0.5, seed=seed))
    assert equal.route is None
    worse = verdict(world(0.4, 0.9, seed=seed))
    assert worse.route is None
    assert any("no better even with everything encoded again" in reason for reason in worse.refused[""])
    assert worse.advice == "keep the model there is"


def test_few_anchors_are_refused_however_good_the_figures() -> None:
    said = verdict(BETTER, anchors=ANCHORS - 1)
    assert said.route is None
    assert any("199 anchors, 200 are needed" in reason for reason in said.refused[""])
    assert "cir anchors" in said.advice


def test_a_head_is_a_route_where_the_model_has_one() -> None:
    made = routes.head(BETTER)
    assert isinstance(made, Fitted)
    assert (made.route, made.matrix) == ("head", None)
    assert routes.head(replace(BETTER, head_queries=None)) == "the new model has no query head for this space"


def test_a_margin_lets_the_old_encoder_go_on() -> None:
    said = verdict(BETTER, margin=0.01)
    assert "encoder" not in said.refused or "R@10" not in " ".join(said.refused["encoder"])


def test_what_takes_minutes_is_better_encoded_again() -> None:
    advice = verdict(BETTER, cost=CHEAP).advice
    assert advice.startswith("just encode everything again (--apply, then `cir backfill`): 100 images, 36 s")


def test_a_slice_that_loses_is_a_reason() -> None:
    fitted = routes.transform(BETTER)
    assert isinstance(fitted, Fitted)
    spoilt = fitted.scores.copy()
    spoilt[: QUESTIONS // 2] = np.random.default_rng(0).random((QUESTIONS // 2, IMAGES))
    found = measure(BETTER, replace(fitted, scores=spoilt))
    assert set(found.worse) == {"half=a"}
    told = found.slices["half=a"]
    assert told["anchors"] == (~BETTER.fit[: QUESTIONS // 2]).sum()
    assert told["by this route"] - told["now"] == pytest.approx(found.worse["half=a"])
    assert found.flips > 0.1
    said = judge(QUESTIONS, overview(BETTER, None), [found], DEAR)
    assert said.route is None
    assert any("half=a loses" in reason for reason in said.refused["transform"])
    assert any("no longer answered" in reason for reason in said.refused["transform"])


def test_calibrated_scores_meet_where_the_odds_are_equal() -> None:
    """Scores of the old space on another scale merge as if they were on the same."""
    fitted = routes.encoder(BETTER)
    assert isinstance(fitted, Fitted)
    other = routes.encoder(replace(BETTER, old_gallery=BETTER.old_gallery * 3))  # scores three times as large
    assert isinstance(other, Fitted)
    assert other.slope == pytest.approx(fitted.slope / 3, rel=1e-2)
    assert other.intercept == pytest.approx(fitted.intercept, abs=1e-2)
    mixed = measure(BETTER, fitted).mixed["R@10"]
    raw = measure(BETTER, replace(fitted, slope=1.0, intercept=0.4)).mixed["R@10"]
    assert mixed > raw


def test_tokens_are_carried_by_queries_alone() -> None:
    study = world(0.8, 0.2, tokens=4)
    assert "tokens" in str(routes.transform(study))
    turned = routes.procrustes(study)
    assert isinstance(turned, Fitted)
    assert turned.matrix is not None
    assert np.allclose(turned.matrix @ turned.matrix.T, np.eye(48), atol=1e-4)
    again = routes.procrustes(replace(study, old_gallery=study.old_gallery[:, ::-1]))
    assert isinstance(again, Fitted)
    assert np.array_equal(again.matrix, turned.matrix)


def test_ties_go_to_the_earlier_image_and_references_never_win() -> None:
    level = np.ones((2, 5), np.float32)
    assert ranked(level, np.array([1, -1]), 3).tolist() == [[0, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize("make", routes.ROUTES.values(), ids=routes.ROUTES)
def test_everything_measured_is_plain_json(make: Callable[[Study], Any]) -> None:
    import json

    whole = replace(BETTER, new_states=3 * BETTER.new_queries, anchored=24)
    made = make(whole)
    told = measure(whole, made).to_json()
    assert json.loads(json.dumps(told)) == told


def test_an_old_model_that_is_gone_takes_its_routes_along() -> None:
    study = replace(BETTER, old_queries=None, new_states=BETTER.new_queries)
    for make in (routes.encoder, routes.fitted):
        assert make(study) == "the model that made these vectors is not here"
    assert isinstance(routes.transform(study), Fitted)
    assert isinstance(routes.procrustes(study), Fitted)  # on images
    few = replace(study, right=np.ones_like(study.right))  # all images are asked about
    assert routes.procrustes(few) == "the model that made these vectors is not here"
    assert "0 images that no measured anchor is about" in str(routes.transform(few))


def test_what_is_not_searched_answers_nothing() -> None:
    given = np.full_like(BETTER.current, -np.inf)
    assert not answered(BETTER, given, 10).any()


def test_anchors_of_one_reference_stay_in_one_half() -> None:
    questions = [f"{n % 70}.jpg" for n in range(400)]
    for seed in range(5):
        fit = halves(questions, np.random.default_rng(seed))
        assert 190 <= fit.sum() <= 200
        inside = {name for name, chosen in zip(questions, fit, strict=True) if chosen}
        assert inside.isdisjoint(name for name, chosen in zip(questions, fit, strict=True) if not chosen)
    lopsided = ["a.jpg"] * 300 + ["b.jpg"] * 10
    for seed in range(5):
        assert halves(lopsided, np.random.default_rng(seed)).tolist() == [name == "b.jpg" for name in lopsided]
    assert not np.array_equal(halves(questions, np.random.default_rng(0)), halves(questions, np.random.default_rng(1)))


def test_a_head_fitted_here_is_calibrated_on_what_it_was_not_fitted_on() -> None:
    """Its own questions would make its scores look surer than they are."""
    study = replace(BETTER, new_states=BETTER.new_queries)
    made = routes.fitted(study)
    assert isinstance(made, Fitted)
    assert made.slope < routes._calibrated(study, made).slope
