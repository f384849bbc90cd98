import numpy as np
import pytest
import torch

from t2imu_utils.errors import InputError
from t2imu_utils.priors import diffusion
from t2imu_utils.priors.diffusion import item_noise, schedule
from t2imu_utils.priors.solvers import FAST, SCHEMES, Solver, sample

MEAN, SPREAD = 2.0, 0.5


def best(scheduler):
    """The predictor of least error for N(MEAN, SPREAD²) data, in double precision."""
    level = scheduler.alphas_cumprod.double()

    def predict(x, t):
        a = level[t][:, None, None]
        gain = a.sqrt() * SPREAD**2 / (a * SPREAD**2 + 1 - a)
        return (MEAN + gain * (x.double() - a.sqrt() * MEAN)).float()

    return predict


def exact(x, scheduler):
    """Where the ordinary equation leads x_T: the same quantile of the data."""
    a = scheduler.alphas_cumprod[-1].double()
    return MEAN + SPREAD * (x.double() - a.sqrt() * MEAN) / (a * SPREAD**2 + 1 - a).sqrt()


def error(name, evaluations, steps):
    """Of the ordinary equation's solution, over quantiles of x_T."""
    scheduler, x = schedule(steps), torch.linspace(-2, 2, 5)[None, None]
    found = sample(best(scheduler), iter([x]), scheduler, Solver(name, evaluations))
    return (found - exact(x, scheduler)).abs().max().item()


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm++2m", 2)])
def test_the_error_falls_with_the_order_of_the_scheme(name, order):
    errors = [error(name, n, steps=2000) for n in (50, 100, 200)]
    fall = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(fall - order) < 0.3), fall


@pytest.mark.parametrize("evaluations", [6, 10, 20])
def test_second_order_is_nearer_with_as_many_evaluations(evaluations):
    assert error("dpm++2m", evaluations, 50) < 0.7 * error("ddim", evaluations, 50)


def spread(name, evaluations):
    """Mean of samples, and their spread as a share of the data's."""
    scheduler = schedule(50)
    noise = item_noise([100] * 8, generators(8), 30)
    x = sample(best(scheduler), noise, scheduler, Solver(name, evaluations))
    return x.mean().item(), x.std().item() / SPREAD


@pytest.mark.parametrize(("first", "second"), [("ddim", "dpm++2m"), ("ancestral", "sde-dpm++2m")])
def test_samples_of_a_gaussian_have_its_mean_and_spread(first, second):
    (mean, coarse), (other_mean, fine) = spread(first, 12), spread(second, 12)
    assert mean == pytest.approx(MEAN, abs=0.02) and other_mean == pytest.approx(MEAN, abs=0.02)
    assert coarse == pytest.approx(1, abs=0.3) and fine == pytest.approx(1, abs=0.1)
    assert abs(fine - 1) < abs(coarse - 1) / 1.5
    assert spread(second, 50)[1] == pytest.approx(1, abs=0.025)


def test_ancestral_sampling_over_all_steps_is_diffusions_own():
    scheduler = schedule(20)
    made = [
        function(best(scheduler), item_noise([7, 9], generators(2), 3), scheduler, *solver)
        for function, *solver in (
            (diffusion.sample,), (sample,), (sample, Solver()), (sample, Solver("ancestral", 20)),
        )
    ]  # fmt: skip
    assert all(torch.equal(made[0], x) for x in made[1:])


def test_the_stochastic_scheme_of_first_order_is_ancestral_sampling(monkeypatch):
    """What fewer ancestral steps are computed with gives the same over all of them."""
    scheduler = schedule(20)
    expected = sample(best(scheduler), item_noise([9], generators(1), 3), scheduler)
    monkeypatch.setitem(SCHEMES, "spelled out", SCHEMES["ancestral"])
    solver = Solver("spelled out", 20)
    found = sample(best(scheduler), item_noise([9], generators(1), 3), scheduler, solver)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SCHEMES)
def test_an_item_is_sampled_the_same_whatever_it_is_batched_with(name):
    scheduler, solver = schedule(30), Solver(name, 6)
    together = sample(best(scheduler), item_noise([5, 9, 7], generators(3), 4), scheduler, solver)
    again = sample(best(scheduler), item_noise([5, 9, 7], generators(3), 4), scheduler, solver)
    alone = sample(best(scheduler), item_noise([5], generators(1), 4), scheduler, solver)
    assert torch.equal(together, again)
    assert torch.equal(together[0, :5], alone[0])
    assert not torch.allclose(together[0, :5], together[1, :5])


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("evaluations", [2, 6, 11])
def test_the_model_is_evaluated_as_often_as_asked_and_last_at_the_cleanest_step(name, evaluations):
    scheduler, seen, drawn = schedule(12), [], []

    def predict(x, t):
        seen.append(t.tolist())
        return 0.5 * x

    def noise():
        while True:
            drawn.append(1)
            yield torch.ones(2, 3, 4)

    x = sample(predict, noise(), scheduler, Solver(name, evaluations))
    assert x.shape == (2, 3, 4) and torch.isfinite(x).all()
    steps = [t for t, _ in seen]
    assert all(a == b for a, b in seen)
    assert steps[0] == 11 and steps[-1] == 0 and len(steps) == evaluations
    assert all(a > b for a, b in zip(steps, steps[1:], strict=False))
    stochastic = name in ("ancestral", "sde-dpm++2m")
    assert len(drawn) == (evaluations if stochastic else 1)


@pytest.mark.parametrize("name", SCHEMES)
def test_timesteps_are_distinct_however_many(name):
    for steps in (10, 50):
        for count in range(2, steps + 1):
            found = Solver(name, count).timesteps(steps)
            assert len(set(found)) == count and found == sorted(found, reverse=True)
            assert (found[0], found[-1]) == (steps - 1, 0)


def test_steps_of_the_stochastic_equation_are_even_in_the_log_of_the_signal_to_noise_ratio():
    level = schedule(1000).alphas_cumprod.double().numpy()
    ratio = np.log(level / (1 - level))
    first, *rest = Solver("sde-dpm++2m", 8).timesteps(1000)
    gaps = np.diff(ratio[rest])
    assert first == 999 and np.ptp(gaps[1:]) < 0.1 * gaps.mean()
    even = np.diff(Solver("dpm++2m", 8).timesteps(1000))
    assert np.ptp(even) <= 1


def test_evaluations_that_are_not_given():
    assert Solver().count(50) == 50 and Solver().name == "ancestral"
    assert Solver("dpm++2m").count(50) == FAST
    assert Solver("dpm++2m").count(4) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("euler",), "solver: found 'euler'; expected one of ancestral, ddim"),
        (("ddim", 1), "evaluations: found 1; expected a whole number, at least 2"),
        (("ddim", 2.5), "evaluations: found 2.5"),
    ],
)
def test_what_is_no_solver_is_refused(arguments, told):
    with pytest.raises(InputError) as error:
        Solver(*arguments)
    assert told in str(error.value)
