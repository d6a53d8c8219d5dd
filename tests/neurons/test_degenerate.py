"""Sets of neurons that stand in for one another: planted ones are found, sums hold none."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from kn_utils.neurons.degenerate import PLANTED, DegenerateError, additive, search, searched


def subsets(members):
    members = sorted(members)
    return [frozenset(s) for s in chain(*(combinations(members, k) for k in range(len(members) + 1)))]


def random_value(n: int, seed: int):
    """Any function of the silenced set, which nothing silenced maps to the most and all silenced to 0."""
    random = np.random.default_rng(seed)
    worth = {gone: float(random.uniform(-0.2, 1.1)) for gone in subsets(range(n))}
    worth[frozenset()], worth[frozenset(range(n))] = 1.0, 0.0
    return worth.__getitem__


@pytest.mark.parametrize("name", PLANTED)
def test_planted_structures_have_their_order(name):
    value, wanted = PLANTED[name]
    found = searched(value, 4)
    assert found.order == wanted
    assert bool(found.redundant[0]) == (wanted > 1)
    assert additive(found).order <= 1  # nothing of it is in the single losses


def test_an_or_of_two_is_carried_twice_and_a_sum_once():
    either = searched(lambda gone: float(not {0, 1} <= gone), 2)
    assert (either.order, either.left, set(either.found)) == (2, 1.0, {frozenset({0}), frozenset({1})})
    total = searched(lambda gone: 2.0 - len(gone), 2)
    assert total.order == 1 and total.redundant == (frozenset(), frozenset())
    assert total.losses.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_found_is_disjoint_sufficient_and_minimal_and_not_more_than_there_is(seed):
    n, slack = 4, 0.25
    value, every = random_value(n, seed), frozenset(range(n))
    found = searched(value, n, slack=slack)

    def sufficient(kept):
        return value(every - kept) >= 1.0 - slack

    assert all(sufficient(kept) for kept in found.found)
    assert all(not sufficient(kept - {i}) for kept in found.found for i in kept)
    assert sum(map(len, found.found)) == len(frozenset().union(*found.found))
    enough = [kept for kept in subsets(range(n)) if kept and sufficient(kept)]
    most = max(
        k
        for k in range(1, n + 1)
        if any(len(frozenset().union(*some)) == sum(map(len, some)) for some in combinations(enough, k))
    )
    assert 1 <= found.order <= most
    assert found.left == pytest.approx(value(found.found[0]))  # the first set silenced, the others on
    assert found.losses == pytest.approx([1.0 - value(frozenset([i])) for i in range(n)])


@pytest.mark.parametrize("seed", range(20))
def test_no_sum_of_helping_neurons_is_degenerate(seed):
    random = np.random.default_rng(seed)
    weights = random.exponential(size=random.integers(1, 8))
    slack = random.uniform(0, 0.49)
    found = searched(
        lambda gone: float(weights.sum() - weights[list(gone)].sum()), len(weights), slack=slack, margin=0
    )
    assert found.order == 1 and found.redundant[0] == frozenset() and found.harmful == 0


@pytest.mark.parametrize("seed", range(10))
def test_of_a_sum_the_additive_null_is_the_same_search(seed):
    weights = np.random.default_rng(seed).normal(0.3, 1, 6)
    found = searched(lambda gone: float(-weights[list(gone)].sum()), 6)
    null = additive(found)
    assert (found.order, found.found) == (null.order, null.found)


@pytest.mark.parametrize("seed", range(30))
def test_redundant_sets_are_what_their_definition_says(seed):
    value = random_value(4, seed)
    one, other = searched(value, 4).redundant
    if one:
        assert not one & other
        assert 1 - value(one) <= 0.25 and 1 - value(other) <= 0.25 and 1 - value(one | other) >= 0.75


def test_neurons_that_carry_nothing_are_no_set():
    for value in (lambda gone: 0.0, lambda gone: float(len(gone))):
        found = searched(value, 3)
        assert found.order == 0 and np.isnan(found.left) and not found.redundant[0]


def test_neurons_that_work_against_the_answer_are_counted():
    found = searched(lambda gone: 2.0 * (0 not in gone) + 1.0 * (1 in gone), 2)
    assert found.harmful == pytest.approx(1 / 2)  # of the two tries one helps; then a single one is left


def test_a_search_that_would_call_sums_degenerate_is_refused():
    for wrong in ({"slack": 0.5}, {"slack": 0.4, "margin": 0.3}, {"slack": -0.1}, {"margin": -0.1}):
        with pytest.raises(DegenerateError, match="slack"):
            next(search(3, **wrong))
    with pytest.raises(DegenerateError, match="no neuron"):
        next(search(0))
