"""Replacing a model: what is fitted, what is measured, and when it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cir.arrays import Floats, Mask
from cir.evidence import Measures, ReindexCost, RouteResult, Verdict
from cir.mappings import Route
from cir.replacement import routes
from cir.replacement.gate import MIN_QUERIES, judge
from cir.replacement.measure import baselines, measure
from cir.replacement.paired_sample import PairedSample, group_split, ranked, similarities
from cir.replacement.routes import FIT_BY_ROUTE, FittedRoute, calibrated, fit_routes, unmapped_scores

IMAGES, QUERIES, LATENT = 900, 600, 24
CHEAP, DEAR = ReindexCost(100, 0.01, 1000), ReindexCost(1_000_000, 40.0, 10**9)
Fit = Callable[[PairedSample], FittedRoute | str]


def unit_rows(values: NDArray[np.floating]) -> Floats:
    rows: Floats = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return rows


def simulate(old_noise: float, new_noise: float, *, seed: int = 0, tokens: int = 0) -> PairedSample:
    """Images with hidden traits, which each model sees through its own random projection and its own noise.

    The target of a query is the image nearest to its wish; no query is about the last third of the images. The head is
    the old model's queries with a little noise: a new model that exactly equals the old one where it is measured.
    """
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((IMAGES, LATENT))
    queried = images[: 2 * IMAGES // 3]
    wishes = unit_rows(queried[rng.integers(len(queried), size=QUERIES)] + 0.3 * rng.standard_normal((QUERIES, LATENT)))
    references = rng.integers(len(queried), size=QUERIES)
    nearest = similarities(wishes, unit_rows(queried))
    nearest[np.arange(QUERIES), references] = -2
    relevant = np.zeros((QUERIES, IMAGES), np.bool_)
    relevant[np.arange(QUERIES), nearest.argmax(axis=1)] = True

    def see(noise: float, dims: int) -> tuple[Floats, Floats]:
        projection = rng.standard_normal((LATENT, dims))
        gallery = (images + noise * rng.standard_normal(images.shape)) @ projection
        if tokens:
            gallery = gallery[:, None] + 0.1 * rng.standard_normal((IMAGES, tokens, dims))
        return unit_rows(gallery), unit_rows((wishes + 0.3 * noise * rng.standard_normal(wishes.shape)) @ projection)

    old_gallery, old_queries = see(old_noise, 48)
    new_gallery, new_queries = see(new_noise, 48)
    fit = rng.random(QUERIES) < 0.5
    return PairedSample(
        old_gallery=old_gallery,
        new_gallery=new_gallery,
        old_queries=old_queries,
        new_queries=new_queries,
        head_queries=unit_rows(old_queries + 0.02 * rng.standard_normal(old_queries.shape)),
        current=similarities(old_queries, old_gallery),
        references=references,
        relevant=relevant,
        fit_mask=fit,
        slices={"half=a": np.arange(QUERIES) < QUERIES // 2},
    )


def fitted(fit: Fit, sample: PairedSample) -> FittedRoute:
    route = fit(sample)
    assert isinstance(route, FittedRoute), route
    return route


@dataclass(frozen=True)
class Measured:
    """A sample whose routes are fitted and measured."""

    baselines: Mapping[str, Measures]
    results: Sequence[RouteResult]

    @classmethod
    def of(cls, sample: PairedSample) -> Measured:
        return cls(baselines(sample), [measure(sample, route) for route in fit_routes(sample)[0]])

    def verdict(self, *, cost: ReindexCost = DEAR, queries: int = QUERIES, margin: float = 0.0) -> Verdict:
        return judge(queries, self.baselines, self.results, cost, margin=margin)


BETTER = simulate(old_noise=0.9, new_noise=0.2)


@pytest.fixture(scope="module")
def better() -> Measured:
    return Measured.of(BETTER)


def test_a_better_model_serves_by_the_best_route_that_passes(better: Measured) -> None:
    given = better.verdict()
    assert given.route in ("ridge", "gallery mlp", "procrustes")
    assert f"serve the new model by {given.route}" in given.advice
    # The head gains nothing, so that it is refused where a gain is required.
    assert any("must be above 0" in reason for reason in given.refused["trained head"])


def test_a_small_loss_at_ten_does_not_outweigh_a_gain_at_one() -> None:
    result = measure(BETTER, fitted(routes.ridge, BETTER))
    values = {"trained head": {"R@1": 0.48, "R@10": 0.86}, "ridge": {"R@1": 0.42, "R@10": 0.862}}
    both = [replace(result, route=route, values=figures) for route, figures in values.items()]
    assert judge(QUERIES, baselines(BETTER), both, DEAR).route == "trained head"


def test_figures_are_those_of_queries_that_the_fit_has_not_seen() -> None:
    route = fitted(routes.ridge, BETTER)
    result = measure(BETTER, route)
    measured = ~BETTER.fit_mask
    order = ranked(route.scores, BETTER.references, 10)[measured]
    hits = BETTER.relevant[measured][np.arange(measured.sum())[:, None], order]
    assert result.values["R@10"] == pytest.approx(hits.any(axis=1).mean())
    compared = baselines(BETTER)
    current, reindexed = (compared[name]["R@10"] for name in ("current", "reindexed"))
    gain = result.gains["R@10"]
    assert gain.difference == pytest.approx(result.values["R@10"] - current)
    assert gain.lower95 < gain.difference
    assert result.recovered["R@10"] == pytest.approx(gain.difference / (reindexed - current))
    used: Mask = np.any(BETTER.relevant[measured], axis=0)
    used[BETTER.references[measured]] = True
    assert not used[BETTER.fit_images].any()
    assert len(BETTER.fit_images) >= IMAGES // 3


def test_the_fit_never_sees_what_is_measured() -> None:
    """Other vectors for measured images change no mapping."""
    measured = np.setdiff1d(np.arange(IMAGES), BETTER.fit_images)
    changed = BETTER.old_gallery.copy()
    changed[measured] = unit_rows(np.random.default_rng(9).standard_normal((len(measured), 48)))
    for fit in (routes.ridge, routes.procrustes):
        before, after = fitted(fit, BETTER), fitted(fit, replace(BETTER, old_gallery=changed))
        assert before.mapping.matrix is not None
        assert after.mapping.matrix is not None
        assert np.array_equal(before.mapping.matrix, after.mapping.matrix)


def test_queries_without_a_mapping_rank_by_chance_and_are_no_route() -> None:
    assert baselines(BETTER)["unmapped"]["R@10"] < 0.06
    assert "unmapped" not in FIT_BY_ROUTE
    other_dims = replace(BETTER, new_queries=BETTER.new_queries[:, :40], new_gallery=BETTER.new_gallery[:, :40])
    assert unmapped_scores(other_dims) is None
    assert set(baselines(other_dims)) == {"current", "reindexed"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_is_no_better_is_refused(seed: int) -> None:
    equal = Measured.of(simulate(0.5, 0.5, seed=seed)).verdict()
    assert equal.route is None
    measured = Measured.of(simulate(0.4, 0.9, seed=seed))
    worse = measured.verdict()
    assert worse.route is None
    within = measured.verdict(margin=0.05)
    assert any("must be above -5.0" in reason for reasons in within.refused.values() for reason in reasons)
    assert any("no better even after a full re-index" in reason for reason in worse.objections)
    assert worse.advice == "keep the current model"


def test_few_queries_are_refused_however_good_the_figures(better: Measured) -> None:
    given = better.verdict(queries=MIN_QUERIES - 1)
    assert given.route is None
    assert any("199 judged queries, 200 are needed" in reason for reason in given.objections)
    assert "cir questions" in given.advice


def test_a_trained_head_is_a_route_if_the_model_has_one() -> None:
    route = fitted(routes.trained_head, BETTER)
    assert (route.mapping.route, route.mapping.matrix) == (Route.TRAINED_HEAD, None)
    without = replace(BETTER, head_queries=None)
    assert routes.trained_head(without) == "the new model has no query head for this space"
    assert fit_routes(without)[1]["trained head"] == "the new model has no query head for this space"


def test_a_margin_accepts_a_route_that_gains_nothing(better: Measured) -> None:
    refused = better.verdict().refused["trained head"]
    assert any(reason.startswith("R@10") for reason in refused)
    accepted = better.verdict(margin=0.05)
    assert "trained head" not in accepted.refused
    assert accepted.route in ("ridge", "gallery mlp", "procrustes")  # still the best


def test_a_re_index_of_minutes_is_better_than_a_mapping(better: Measured) -> None:
    advice = better.verdict(cost=CHEAP).advice
    assert advice.startswith("just re-index (--apply, then `cir backfill`): 100 images, 36 s")


def test_a_slice_that_loses_is_a_reason() -> None:
    route = fitted(routes.ridge, BETTER)
    spoilt = route.scores.copy()
    spoilt[: QUERIES // 2] = np.random.default_rng(0).random((QUERIES // 2, IMAGES))
    result = measure(BETTER, replace(route, scores=spoilt))
    assert set(result.losing_slices) == {"half=a"}
    part = result.slices["half=a"]
    assert part.questions == (~BETTER.fit_mask[: QUERIES // 2]).sum()
    assert part.mapped - part.current == pytest.approx(result.losing_slices["half=a"])
    assert result.negative_flips > 0.1
    given = judge(QUERIES, baselines(BETTER), [result], DEAR)
    assert given.route is None
    assert any("half=a loses" in reason for reason in given.refused["ridge"])
    assert any("negative flips: more than 10.0 %" in reason for reason in given.refused["ridge"])


def test_calibrated_scores_meet_where_the_odds_are_equal() -> None:
    """Scores of the old space on another scale merge as if they were on the same."""
    route = fitted(routes.trained_head, BETTER)
    # Scores three times as large.
    tripled = fitted(routes.trained_head, replace(BETTER, old_gallery=BETTER.old_gallery * np.float32(3)))
    assert tripled.mapping.slope == pytest.approx(route.mapping.slope / 3, rel=1e-2)
    assert tripled.mapping.intercept == pytest.approx(route.mapping.intercept, abs=1e-2)
    mixed = measure(BETTER, route).half_reindexed["R@10"]
    uncalibrated = replace(route, mapping=replace(route.mapping, slope=1.0, intercept=0.4))
    assert mixed > measure(BETTER, uncalibrated).half_reindexed["R@10"]


def test_tokens_are_reached_by_mapping_queries() -> None:
    sample = simulate(0.8, 0.2, tokens=4)
    assert "tokens" in str(routes.ridge(sample))
    rotation = fitted(routes.procrustes, sample).mapping.matrix
    assert rotation is not None
    assert np.allclose(rotation @ rotation.T, np.eye(48), atol=1e-4)
    again = fitted(routes.procrustes, replace(sample, old_gallery=sample.old_gallery[:, ::-1])).mapping.matrix
    assert again is not None
    assert np.array_equal(again, rotation)


def test_ties_go_to_the_earlier_image_and_references_never_win() -> None:
    level = np.ones((2, 5), np.float32)
    assert ranked(level, np.array([1, -1]), 3).tolist() == [[0, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize(
    "fit",
    [
        pytest.param(fit, marks=[pytest.mark.slow] * (route is Route.FITTED_HEAD), id=route)
        for route, fit in FIT_BY_ROUTE.items()
    ],
)
def test_results_are_plain_json(fit: Fit) -> None:
    complete = replace(BETTER, new_states=3 * BETTER.new_queries, simplex_dims=24)
    values = measure(complete, fitted(fit, complete)).to_json()
    assert json.loads(json.dumps(values)) == values


def test_a_missing_old_model_takes_its_routes_along() -> None:
    sample = replace(BETTER, old_queries=None, new_states=BETTER.new_queries)
    missing = "the folder of the model that made these vectors is missing"
    assert routes.fitted_head(sample) == missing
    assert fitted(routes.ridge, sample).mapping.matrix is not None
    assert fitted(routes.procrustes, sample).mapping.matrix is not None  # fitted on images
    everything = replace(sample, relevant=np.ones_like(sample.relevant))  # queries are about all images
    assert routes.procrustes(everything) == missing
    assert "0 images outside the measured queries" in str(routes.ridge(everything))


def test_images_that_are_not_searched_are_no_hits() -> None:
    scores = np.full_like(BETTER.current, -np.inf)
    assert not BETTER.hits(scores, 10).any()


def test_queries_about_one_reference_stay_in_one_half() -> None:
    references = [f"{n % 70}.jpg" for n in range(400)]
    for seed in range(5):
        fit = group_split(references, np.random.default_rng(seed))
        assert 190 <= fit.sum() <= 200
        inside = {name for name, chosen in zip(references, fit, strict=True) if chosen}
        assert inside.isdisjoint(name for name, chosen in zip(references, fit, strict=True) if not chosen)
    lopsided = ["a.jpg"] * 300 + ["b.jpg"] * 10
    for seed in range(5):
        assert group_split(lopsided, np.random.default_rng(seed)).tolist() == [name == "b.jpg" for name in lopsided]
    first, second = (group_split(references, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_a_fitted_head_is_calibrated_on_queries_that_it_was_not_fitted_on() -> None:
    """Its own queries would make its scores look more certain than they are."""
    sample = replace(BETTER, new_states=BETTER.new_queries)
    route = fitted(routes.fitted_head, sample)
    assert route.mapping.slope < calibrated(sample, route).mapping.slope
    assert routes.fitted_head(BETTER) == "the new model does not expose its query states"
