"""Each route finds a map that was planted between two spaces, and none finds one that is not there."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from cir.arrays import Floats, unit
from cir.mappings import Maps, Route, SpaceMapping
from cir.replacement.mlp_fit import fit_mlp
from cir.replacement.paired_sample import PairedSample, similarities
from cir.replacement.ridge import Linear, agreement, fit_best_ridge, fit_low_rank
from cir.replacement.routes import FIT_BY_ROUTE, FittedRoute, applied

IMAGES, UNSEEN, DIMS = 600, 200, 16
RNG = np.random.default_rng(5)
NEW = unit(RNG.standard_normal((IMAGES + UNSEEN, DIMS)).astype(np.float32))
ROTATION = np.linalg.qr(RNG.standard_normal((DIMS, DIMS)))[0].astype(np.float32)
AFFINE = RNG.standard_normal((32, DIMS)).astype(np.float32)
OFFSET = RNG.standard_normal(32).astype(np.float32)
LOW = (RNG.standard_normal((32, 4)) @ RNG.standard_normal((4, DIMS))).astype(np.float32)
BENT = RNG.standard_normal((32, DIMS)).astype(np.float32)


def noisy(values: Floats, noise: float) -> Floats:
    return unit(values + noise * np.random.default_rng(6).standard_normal(values.shape).astype(np.float32))


PLANTED: dict[str, Floats] = {  # the old model's vectors of the same images
    "rotation": noisy(NEW @ ROTATION.T, 0.02),
    "affine": noisy(NEW @ AFFINE.T + OFFSET, 0.02),
    "low rank": noisy(NEW @ LOW.T, 0.3),
    "bent": noisy(NEW @ AFFINE.T + 1.5 * np.abs(NEW @ BENT.T), 0.02),
    "nothing": unit(np.random.default_rng(9).standard_normal((IMAGES + UNSEEN, DIMS)).astype(np.float32)),
}
QUERY_SIDE = {
    "rotation": Route.PROCRUSTES,
    "affine": Route.QUERY_RIDGE,
    "low rank": Route.LOW_RANK,
    "bent": Route.QUERY_MLP,
}


def sample_of(old: Floats) -> PairedSample:
    """Image queries, half of them for fitting; the images of the others are held out."""
    held_out = np.arange(IMAGES + UNSEEN) >= IMAGES
    rows = np.r_[np.arange(100), np.arange(IMAGES, IMAGES + UNSEEN)]
    return PairedSample(
        old_gallery=old,
        new_gallery=NEW,
        old_queries=old[rows],
        new_queries=NEW[rows],
        head_queries=None,
        current=similarities(old[rows], old),
        references=rows,
        relevant=np.zeros((len(rows), len(NEW)), np.bool_),
        fit_mask=rows < IMAGES,
        slices={},
        held_out=held_out,
        labelled=False,
    )


@cache
def fitted(route: Route, planted: str) -> SpaceMapping:
    result = FIT_BY_ROUTE[route](sample_of(PLANTED[planted]))
    assert isinstance(result, FittedRoute), result
    return result.mapping


def cosine(mapping: SpaceMapping, planted: str) -> float:
    """How near unseen vectors come to where they belong, whichever side is mapped."""
    old = PLANTED[planted]
    if mapping.maps is Maps.GALLERY:
        given, wanted = old[IMAGES:], NEW[IMAGES:]
    else:
        given, wanted = NEW[IMAGES:], old[IMAGES:]
    return float((mapping.map(given) * wanted).sum(axis=1).mean())


@pytest.mark.parametrize("planted", QUERY_SIDE)
def test_each_query_side_route_finds_its_map(planted: str) -> None:
    possible = float((PLANTED["low rank"][IMAGES:] * unit(NEW @ LOW.T)[IMAGES:]).sum(axis=1).mean())
    least = {"rotation": 0.99, "affine": 0.99, "low rank": possible - 0.02, "bent": 0.93}
    assert cosine(fitted(QUERY_SIDE[planted], planted), planted) > least[planted]


def test_what_is_not_linear_needs_the_hidden_layer() -> None:
    network, linear = fitted(Route.QUERY_MLP, "bent"), fitted(Route.QUERY_RIDGE, "bent")
    assert cosine(network, "bent") > cosine(linear, "bent") + 0.02


def test_an_offset_needs_more_than_a_rotation() -> None:
    rotation, affine = fitted(Route.PROCRUSTES, "affine"), fitted(Route.QUERY_RIDGE, "affine")
    assert cosine(rotation, "affine") < cosine(affine, "affine") - 0.05


def test_a_low_rank_is_found_and_pays_with_few_noisy_pairs() -> None:
    x, y = NEW[:120], PLANTED["low rank"][:120]
    reduced, full = fit_low_rank(x, y), fit_best_ridge(x, y)
    assert np.linalg.matrix_rank(reduced.matrix, tol=1e-3) == 4
    assert np.linalg.matrix_rank(full.matrix, tol=1e-3) > 4
    unseen = (NEW[IMAGES:], PLANTED["low rank"][IMAGES:])
    assert agreement(reduced, *unseen) > agreement(full, *unseen)


@pytest.mark.parametrize("route", [Route.RIDGE, Route.GALLERY_MLP])
@pytest.mark.parametrize("planted", ["rotation", "affine"])
def test_the_gallery_side_finds_the_way_back(route: Route, planted: str) -> None:
    assert cosine(fitted(route, planted), planted) > 0.97


@pytest.mark.parametrize("route", [route for route in Route if route.maps is Maps.QUERIES and route != "simplex"])
def test_a_fit_of_the_wrong_side_would_be_noticed(route: Route) -> None:
    """The planted rotation is no symmetry: its inverse leads elsewhere."""
    old = PLANTED["rotation"]
    swapped = FIT_BY_ROUTE[route](replace(sample_of(NEW), old_gallery=NEW, new_gallery=old, new_queries=old[:300]))
    assert isinstance(swapped, FittedRoute)
    assert cosine(swapped.mapping, "rotation") < 0.3 < 0.6 < cosine(fitted(route, "rotation"), "rotation")


@pytest.mark.parametrize("route", [Route.RIDGE, Route.GALLERY_MLP, Route.PROCRUSTES, Route.QUERY_MLP, Route.LOW_RANK])
def test_vectors_that_have_nothing_in_common_are_not_mapped(route: Route) -> None:
    assert abs(cosine(fitted(route, "nothing"), "nothing")) < 0.15


def test_without_anything_to_learn_the_network_is_the_ridge_regression() -> None:
    x = NEW[:IMAGES]
    y = unit(x @ ROTATION.T)
    network = fit_mlp(x, y)
    linear = Linear(network.matrix, network.bias)
    assert agreement(linear, x, y) > 0.999
    mapped = SpaceMapping("", "", Route.QUERY_MLP, **network._asdict()).map(x)
    assert float((mapped * y).sum(axis=1).mean()) >= agreement(linear, x, y) - 1e-4


def test_fits_do_not_see_what_is_held_out() -> None:
    changed = PLANTED["affine"].copy()
    changed[IMAGES:] = unit(np.random.default_rng(1).standard_normal((UNSEEN, 32)).astype(np.float32))
    for route in (Route.RIDGE, Route.QUERY_RIDGE, Route.LOW_RANK, Route.QUERY_MLP):
        again = FIT_BY_ROUTE[route](sample_of(changed))
        assert isinstance(again, FittedRoute)
        first, second = fitted(route, "affine").arrays, again.mapping.arrays
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_scores_without_judgements_are_put_on_the_scale_of_the_new_model() -> None:
    """A score becomes what the new model's own score is on average."""
    sample = sample_of(PLANTED["low rank"])
    result = FIT_BY_ROUTE[Route.LOW_RANK](sample)
    assert isinstance(result, FittedRoute)
    first = np.argsort(-result.scores, axis=1)[~sample.fit_mask, 1:11]  # the first is the image itself

    def bias(scores: Floats) -> float:
        differences = (scores - sample.reindexed)[~sample.fit_mask]
        return abs(float(np.take_along_axis(differences, first, axis=1).mean()))

    assert bias(result.calibrated) < 0.05 < bias(result.scores)


def test_a_route_without_queries_to_map_is_an_error() -> None:
    with pytest.raises(ValueError, match="no queries for the route fitted head"):
        applied(sample_of(PLANTED["rotation"]), SpaceMapping("", "", Route.FITTED_HEAD, AFFINE))


PAIRED = [Route.RIDGE, Route.GALLERY_MLP, Route.QUERY_RIDGE, Route.LOW_RANK, Route.QUERY_MLP]


@pytest.mark.parametrize("route", PAIRED)
def test_few_images_are_refused(route: Route) -> None:
    few = replace(sample_of(PLANTED["rotation"]), held_out=np.arange(len(NEW)) >= 30)
    assert "30 images outside the measured queries, 50 are needed" in str(FIT_BY_ROUTE[route](few))


@pytest.mark.parametrize("route", PAIRED)
def test_queries_are_mapped_to_tokens_and_galleries_of_tokens_are_not(route: Route) -> None:
    sample = sample_of(PLANTED["rotation"])
    turned = np.stack([sample.old_gallery, sample.old_gallery[:, ::-1]], axis=1)
    tokens = replace(sample, old_gallery=sample.old_gallery[:, None].repeat(3, axis=1))
    fitted, plain = FIT_BY_ROUTE[route](tokens), FIT_BY_ROUTE[route](sample)
    if route.maps is Maps.GALLERY:
        assert "ranked by tokens" in str(fitted)
        return
    assert isinstance(fitted, FittedRoute)
    assert isinstance(plain, FittedRoute)
    np.testing.assert_allclose(fitted.scores, plain.scores, atol=1e-4)  # three equal tokens are one vector
    assert isinstance(FIT_BY_ROUTE[route](replace(sample, old_gallery=turned)), FittedRoute)
