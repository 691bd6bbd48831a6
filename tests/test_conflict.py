"""Conflict rules: numbers derived by hand, optimality against other solvers, and the laws of issue and design."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.methods.conflict import IMTLG, MGDA, ConflictResolver, NashMTL, PCGrad, UPGrad, cosines
from common.methods.quadratic import minimise
from tests.row_cases import conflict_rule


def alike(rng, count):
    """Steps of which many have the same length, and the same cosine with others."""
    signs = rng.choice([-1.0, 1.0], size=(count, 40))
    signs[:, :9] = 0.0
    return signs


NAMES = ("pcgrad", "mgda", "cagrad", "nash", "imtl_g", "upgrad")
PAIR = np.array([[1.0, 0.0], [-0.8, 0.6]])


def step(rule, steps):
    return rule(steps @ steps.T) @ steps


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # g1.g2 = -.8; g1 - (-.8) g2 = (.36, .48), g2 - (-.8) g1 = (0, .6); half their sum
        ("pcgrad", (0.18, 0.54)),
        ("mgda", (0.1, 0.3)),  # equal lengths: the middle
        ("cagrad", (0.15, 0.45)),  # c = .5: the mean and half its length towards the middle
        ("imtl_g", (0.1, 0.3)),
        ("nash", (0.4472135955, 1.3416407865)),  # both weights 1 / sqrt(1 - .8) = 2.2360679775
        ("upgrad", (0.18, 0.54)),  # with two tasks the cone's projections are PCGrad's
    ],
)
def test_two_steps_by_hand(name, expected):
    np.testing.assert_allclose(step(conflict_rule(name, 0.5), PAIR), expected, atol=1e-9)


@st.composite
def step_sets(draw):
    """Steps of 2 to 8 tasks, of any scale, sometimes dependent."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, size = draw(st.integers(2, 8)), draw(st.integers(2, 30))
    steps = rng.normal(size=(count, size)) * 10.0 ** rng.uniform(-1, 1, size=(count, 1))
    if draw(st.booleans()):
        steps[-1] = 2 * steps[0]
    return steps * 10.0 ** draw(st.integers(-6, 3))


@settings(max_examples=60, deadline=None)
@given(step_sets())
def test_mgda_is_the_shortest_convex_combination(steps):
    weights = MGDA()(steps @ steps.T)
    d, scale = weights @ steps, float((steps**2).sum(axis=1).max())
    assert weights.sum() == pytest.approx(1, abs=1e-9) and (weights >= 0).all()
    assert (steps @ d >= d @ d - 1e-9 * scale).all()


@settings(max_examples=60, deadline=None)
@given(step_sets())
def test_upgrad_hurts_no_task_and_is_the_mean_of_projections(steps):
    d, scale = step(UPGrad(), steps), float((steps**2).sum(axis=1).max())
    assert (steps @ d >= -1e-8 * scale).all()
    np.testing.assert_allclose(step(UPGrad(), 8.0 * steps), 8.0 * d, atol=1e-8 * np.sqrt(scale))


@settings(max_examples=40, deadline=None)
@given(step_sets(), st.sampled_from([0.2, 0.5, 0.9]))
def test_cagrad_is_best_for_the_worst_off_in_its_ball(steps, radius):
    """Weak duality: no d in the ball does better than any w's g_w.g_0 + c ||g_0|| ||g_w||; ours meets its own w."""
    even, scale = steps.mean(axis=0), float((steps**2).sum(axis=1).max())
    weights = conflict_rule("cagrad", radius)(steps @ steps.T)
    d, reach = weights @ steps, radius * np.linalg.norm(even)
    assert np.linalg.norm(d - even) <= reach + 1e-6 * np.sqrt(scale)
    towards = weights - 1 / len(steps)
    if towards.sum() > 1e-9:
        mixed = (towards / towards.sum()) @ steps
        bound = mixed @ even + reach * np.linalg.norm(mixed)
        assert (steps @ d).min() == pytest.approx(bound, abs=1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(step_sets())
def test_nash_and_imtl_meet_their_equations(steps):
    gram = steps @ steps.T
    if len(steps) > steps.shape[1] or np.linalg.cond(gram) > 1e4:
        return
    a = NashMTL()(gram)
    np.testing.assert_allclose((gram @ a) * a, 1.0, atol=1e-5)
    assert np.linalg.norm(a @ steps) == pytest.approx(np.sqrt(len(steps)), rel=1e-6)
    a = IMTLG()(gram)
    assert a.sum() == pytest.approx(1)
    gains = (gram @ a) / np.sqrt(np.diag(gram))
    if not np.allclose(a, 1 / len(steps)):
        np.testing.assert_allclose(gains, gains[0], rtol=1e-6)


def test_pcgrad_of_three_is_the_mean_over_all_orders():
    steps = np.random.default_rng(3).normal(size=(3, 2))
    expected = np.zeros(2)
    for task in range(3):
        for order in itertools.permutations([t for t in range(3) if t != task]):
            g = steps[task].copy()
            for other in order:
                g -= min(g @ steps[other], 0.0) / (steps[other] @ steps[other]) * steps[other]
            expected += g / 2 / 3
    np.testing.assert_allclose(step(PCGrad(), steps), expected, atol=1e-12)


def test_pcgrad_of_many_projects_the_most_opposed_out_first():
    steps = np.random.default_rng(6).normal(size=(9, 5))
    expected = np.zeros(5)
    for task in range(9):
        d, left = steps[task].copy(), [t for t in range(9) if t != task]
        while left:
            most = min(left, key=lambda t: d @ steps[t] / np.linalg.norm(steps[t]))
            d -= min(d @ steps[most], 0.0) / (steps[most] @ steps[most]) * steps[most]
            left.remove(most)
        expected += d / 9
    np.testing.assert_allclose(step(PCGrad(), steps), expected, atol=1e-12)


@pytest.mark.parametrize("total", [None, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_the_active_set_finds_the_best_support(total, seed):
    """Against all supports: of each, the stationary point, if it is feasible."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(5, 7))
    matrix, linear = root @ root.T, rng.normal(size=5)
    best = np.inf if total else 0.0
    for support in itertools.chain.from_iterable(itertools.combinations(range(5), n) for n in range(1, 6)):
        part, rows = list(support), np.ix_(support, support)
        inverse = np.linalg.inv(matrix[rows])
        level = (1.0 + (inverse @ linear[part]).sum()) / inverse.sum() if total else 0.0
        x = inverse @ (level - linear[part])
        if (x >= -1e-12).all():
            best = min(best, 0.5 * x @ matrix[rows] @ x + linear[part] @ x)
    found = minimise(matrix, linear, total)
    assert (found >= 0).all() and (total is None or found.sum() == pytest.approx(total, abs=1e-12))
    assert 0.5 * found @ matrix @ found + linear @ found == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
class TestLaws:
    def test_renumbering_the_tasks_changes_nothing(self, name):
        rng = np.random.default_rng(5)
        rule = conflict_rule(name, 0.5)
        for count in (2, 3, 5, 7, 9, 12):
            for steps in (rng.normal(size=(count, 6)), alike(rng, count)):
                order, shares = rng.permutation(count), rng.dirichlet(np.ones(count))
                np.testing.assert_allclose(step(rule, steps[order]), step(rule, steps), atol=1e-7)
                settled = [
                    ConflictResolver(rule, False).weights(s @ s.T, w) @ s
                    for s, w in ((steps, shares), (steps[order], shares[order]))
                ]
                np.testing.assert_allclose(settled[0], settled[1], atol=1e-7)

    def test_longer_steps_give_a_longer_one_and_nash_the_same(self, name):
        rng, rule = np.random.default_rng(8), conflict_rule(name, 0.5)
        for count, factor in itertools.product((2, 3, 5, 8), (1e-6, 1e-3, 7.0, 1e6)):
            steps = rng.normal(size=(count, 20))
            expected = step(rule, steps) * (1.0 if name == "nash" else factor)
            np.testing.assert_allclose(step(rule, factor * steps), expected, atol=1e-7 * np.abs(expected).max())

    def test_one_task_keeps_its_share_bit_for_bit(self, name):
        for rescale, only in itertools.product((True, False), repeat=2):
            share = np.array([1.0])
            found = ConflictResolver(conflict_rule(name, rescale=rescale), only).weights(np.array([[1e-7]]), share)
            assert found.tobytes() == share.tobytes()

    def test_without_conflict_the_weighted_mean_is_kept_bit_for_bit(self, name):
        steps = np.abs(np.random.default_rng(2).normal(size=(4, 9)))
        shares = np.array([0.1, 0.2, 0.3, 0.4])
        found = ConflictResolver(conflict_rule(name)).weights(steps @ steps.T, shares)
        assert found.tobytes() == shares.tobytes()

    def test_equal_steps_give_a_positive_multiple_and_rescaled_the_mean(self, name):
        steps = np.tile(np.random.default_rng(2).normal(size=9), (3, 1))
        shares = np.full(3, 1 / 3)
        own = ConflictResolver(conflict_rule(name, rescale=False), False).weights(steps @ steps.T, shares) @ steps
        assert own @ steps[0] > 0 and np.linalg.norm(own - own @ steps[0] / (steps[0] @ steps[0]) * steps[0]) < 1e-9
        same = ConflictResolver(conflict_rule(name), False).weights(steps @ steps.T, shares) @ steps
        np.testing.assert_allclose(same, steps[0], rtol=1e-9)

    def test_a_settled_step_is_as_long_as_the_mean_and_serves_both(self, name):
        shares = np.array([0.75, 0.25])
        found = ConflictResolver(conflict_rule(name)).weights(PAIR @ PAIR.T, shares) @ PAIR
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(shares @ PAIR))
        if name != "cagrad":  # it stays near the mean, which two thirds of the weight pull to one side
            assert (PAIR @ found >= -1e-12).all()

    def test_a_task_that_did_not_move_takes_no_part(self, name):
        steps = np.vstack([PAIR, np.zeros(2)])
        shares = np.full(3, 1 / 3)
        three = ConflictResolver(conflict_rule(name)).weights(steps @ steps.T, shares) @ steps
        two = ConflictResolver(conflict_rule(name)).weights(PAIR @ PAIR.T, shares[:2] * 1.5) @ PAIR
        np.testing.assert_allclose(three, two * 2 / 3, atol=1e-12)

    def test_opposite_steps_leave_nothing_to_do(self, name):
        steps = np.array([[1.0, 2.0], [-1.0, -2.0]])
        found = ConflictResolver(conflict_rule(name)).weights(steps @ steps.T, np.full(2, 0.5)) @ steps
        assert np.isfinite(found).all() and np.linalg.norm(found) < 1e-6


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
class TestOneStepOfAnotherLength:
    """What one of the steps is multiplied by, and how the common step follows."""

    def changed(self, count, factor):
        steps = np.random.default_rng(count).normal(size=(count, 20))
        return steps, steps * np.where(np.arange(count) == 1, factor, 1.0)[:, None]

    def test_nash_does_not_see_it(self, count, factor):
        steps, longer = self.changed(count, factor)
        np.testing.assert_allclose(step(NashMTL(), longer), step(NashMTL(), steps), atol=1e-9)

    def test_imtl_g_keeps_its_direction(self, count, factor):
        before, after = (step(IMTLG(), steps) for steps in self.changed(count, factor))
        cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
        assert cosine == pytest.approx(1, abs=1e-9)

    @pytest.mark.parametrize("rule", [PCGrad(), UPGrad()], ids=["pcgrad", "upgrad"])
    def test_pcgrad_and_upgrad_are_linear_in_it(self, rule, count, factor):
        one, two = (step(rule, self.changed(count, k)[1]) for k in (1.0, 2.0))
        expected = one + (factor - 1.0) * (two - one)
        np.testing.assert_allclose(
            step(rule, self.changed(count, factor)[1]), expected, atol=1e-9 * np.abs(expected).max()
        )


def test_the_shortest_combination_of_almost_opposite_steps_stays_short():
    """(1, 0) and (-3, 1e-6): three quarters and one quarter leave (0, 2.5e-7), which is no direction to make longer."""
    steps = np.array([[1.0, 0.0], [-3.0, 1e-6]])
    found = ConflictResolver(MGDA(), False).weights(steps @ steps.T, np.full(2, 0.5)) @ steps
    np.testing.assert_allclose(found, [0.0, 2.5e-7], atol=1e-10)


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "nash", "upgrad"])
@pytest.mark.parametrize("apart", [1e-9, 1e-8, 1e-7])
def test_no_rule_makes_a_step_out_of_rounding(name, apart):
    steps = np.array([[1.0, 0.0, 0.0], [-3.0, apart, 0.0], [2.0, 0.0, apart]])
    found = ConflictResolver(conflict_rule(name), False).weights(steps @ steps.T, np.full(3, 1 / 3))
    assert np.abs(found) @ np.linalg.norm(steps, axis=1) <= 3.0
    if name != "pcgrad":
        assert np.linalg.norm(found @ steps) < 1e-5


def test_cagrad_finds_what_serves_both_however_long_one_step_is():
    steps = np.array([[1e7, 0.0], [-0.5e7, 1.0]])
    found = step(conflict_rule("cagrad", 0.9), steps)
    mean = steps.mean(axis=0)
    assert np.linalg.norm(found - mean) <= 0.9 * np.linalg.norm(mean) * (1 + 1e-9)


def test_cagrad_between_the_mean_and_the_shortest_combination():
    near = step(conflict_rule("cagrad", 1e-9), PAIR)
    np.testing.assert_allclose(near, PAIR.mean(axis=0), atol=1e-8)
    steps = np.array([[2.0, 0.0], [-0.4, 0.3]])
    far, shortest = step(conflict_rule("cagrad", 1e4), steps), step(MGDA(), steps)
    assert far @ shortest == pytest.approx(np.linalg.norm(far) * np.linalg.norm(shortest), rel=1e-3)


def test_cosines_of_zero_steps_are_zero():
    steps = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [-3.0, 0.0]])
    half = np.sqrt(0.5)
    expected = [[1, half, 0, -1], [half, 1, 0, -half], [0, 0, 0, 0], [-1, -half, 0, 1]]
    np.testing.assert_allclose(cosines(steps @ steps.T), expected, atol=1e-12)
