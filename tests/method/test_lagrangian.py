"""The term of Eq. 8 and Algorithm 1: loops over the formulas, a convex problem with a known solution, resumption."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from printed_term import PRINTED, make_term
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss

NOTHING = torch.empty(0, dtype=torch.float64)


def make_batch(size=24, seed=0, *, dtype=torch.float64) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(size) % 3 == 0).long()
    return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype), labels, [f"s{i}" for i in range(size)]


def loop(logits, labels, *, margin, mu, multipliers, reduction="sum"):
    """Eq. 8 without F as it is printed, with λ by row."""
    positive = [(f, m) for f, y, m in zip(logits, labels, multipliers, strict=True) if y]
    negative = [f for f, y in zip(logits, labels, strict=True) if not y]
    q = [sum(max(0.0, margin - (f - g)) for g in negative) for f, _ in positive]
    scale = len(positive) * len(negative)
    if reduction == "mean":
        q, scale = [value / len(negative) for value in q], len(positive)
    linear = sum(m * value for value, (_, m) in zip(q, positive, strict=True))
    return mu * sum(value**2 for value in q) / (2 * scale) + linear / scale, q


def sigmoid(values):
    return [1 / (1 + math.exp(-value)) for value in values]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("on", ["logit", "probability"])
def test_equals_equation_8_and_the_multiplier_update(on, reduction):
    logits, labels, ids = make_batch()
    term = make_term(ids, on=on, reduction=reduction)
    multipliers = dict.fromkeys(ids, 0.0)
    for step in range(3):
        shifted = logits + 0.1 * step
        outputs = shifted.tolist() if on == "logit" else sigmoid(shifted.tolist())
        expected, q = loop(
            outputs, labels, margin=1.0, mu=0.2, multipliers=[multipliers[key] for key in ids], reduction=reduction
        )
        assert term(shifted, labels, ids).item() == pytest.approx(expected, rel=1e-12)
        term.update_multipliers()
        for key, value in zip([key for key, y in zip(ids, labels, strict=True) if y], q, strict=True):
            multipliers[key] += 0.2 * value
        assert {key: value for key, value in multipliers.items() if value} == pytest.approx(term.multipliers)


def test_the_mean_with_n_times_the_mu_is_the_sum():
    logits, labels, ids = make_batch()
    negatives = int((labels == 0).sum())
    terms = make_term(ids, mu=0.2), make_term(ids, mu=0.2 * negatives, reduction="mean")
    for step in range(5):
        values, gradients = [], []
        for term in terms:
            leaf = (logits + 0.2 * step).requires_grad_()
            value = term(leaf, labels, ids)
            value.backward()
            term.update_multipliers()
            values.append(value.item())
            gradients.append(leaf.grad)
        assert values[0] == pytest.approx(values[1], rel=1e-12)
        torch.testing.assert_close(*gradients)
        assert terms[0].multipliers == pytest.approx(terms[1].multipliers, rel=1e-12)


def test_gradcheck_with_multipliers():
    logits, labels, ids = make_batch(9)
    term = make_term(ids)
    term(logits, labels, ids)
    term.update_multipliers()
    assert torch.autograd.gradcheck(lambda z: term(z, labels, ids), (logits.requires_grad_(),))


def test_every_violated_positive_receives_gradient():
    """In the authors' public code only the last positive of a batch does."""
    logits = torch.zeros(5, requires_grad=True)
    make_term(list("abcde"))(logits, torch.tensor([1, 1, 1, 0, 0]), list("abcde")).backward()
    assert (logits.grad[:3] < 0).all()
    assert (logits.grad[3:] > 0).all()


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_a_batch_of_one_class_adds_nothing(labels):
    """The authors' public code crashes on a batch without positives."""
    term = make_term()
    logits = torch.randn(len(labels), requires_grad=True)
    value = term(logits, torch.tensor(labels), ["a", "b", "c"][: len(labels)])
    value.backward()
    term.update_multipliers()
    assert value.item() == 0.0
    assert not logits.grad.any()
    assert not any(term.multipliers.values())


def test_multipliers_follow_their_sample_under_shuffling():
    """In the authors' public code they live at positions of an array that is shuffled along."""
    logits, labels, ids = make_batch()
    ordered, shuffled = make_term(ids), make_term(ids[::-1])
    order = torch.arange(len(ids))
    for seed in range(4):
        permutation = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        one = ordered(logits[order], labels[order], [ids[i] for i in order])
        other = shuffled(logits[permutation], labels[permutation], [ids[i] for i in permutation])
        assert one.item() == pytest.approx(other.item(), rel=1e-12)
        ordered.update_multipliers()
        shuffled.update_multipliers()
    assert ordered.multipliers == pytest.approx(shuffled.multipliers, rel=1e-12)


def test_multipliers_of_samples_outside_the_batch_rest():
    term = make_term()
    term(torch.zeros(2), torch.tensor([1, 0]), ["a", "n"])
    term.update_multipliers()
    before = term.multipliers["a"]
    term(torch.zeros(2), torch.tensor([1, 0]), ["b", "n"])
    term.update_multipliers()
    assert term.multipliers == {"a": before, "b": before}


def test_the_step_uses_the_old_multiplier_and_the_update_the_old_q():
    term = make_term()
    logits, labels, ids = torch.zeros(2, dtype=torch.float64), torch.tensor([1, 0]), ["a", "n"]
    assert term(logits, labels, ids).item() == pytest.approx(0.2 / 2)  # λ = 0, q = 1
    term.update_multipliers()
    assert term.multipliers["a"] == pytest.approx(0.2)
    assert term(logits, labels, ids).item() == pytest.approx(0.2 / 2 + 0.2)


def test_a_bound_on_the_multipliers():
    term = make_term(multiplier_max=0.5)
    for _ in range(4):
        term(torch.zeros(2), torch.tensor([1, 0]), ["a", "n"])
        term.update_multipliers()
    assert term.multipliers["a"] == 0.5


@pytest.mark.parametrize("relaxation", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("bound", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("violation", [0.02, 0.2, 1.0, 4.0])
def test_the_term_is_the_best_multiplier_within_its_bound(bound, violation, relaxation):
    """Max over λ in [0, Λ] of λ r - p λ² / 2 - (λ - λ_j)² / (2 μ), by scipy; λ_j as two earlier steps have left it."""
    mu, labels, old = 0.4, torch.tensor([1, 0]), 0.0
    term = make_term(mu=mu, multiplier_max=bound, relaxation=relaxation)
    for _ in range(2):
        term(torch.zeros(2), labels, ["a", "n"])  # r = δ = 1
        term.update_multipliers()
        old = min((old + mu) / (1 + mu * relaxation), bound)
    best = minimize_scalar(
        lambda new: (new - old) ** 2 / (2 * mu) + relaxation * new**2 / 2 - new * violation,
        bounds=(0, bound),
        method="bounded",
        options={"xatol": 1e-12},
    )
    logits = torch.tensor([1.0 - violation, 0.0], dtype=torch.float64, requires_grad=True)
    value = term(logits, labels, ["a", "n"])
    value.backward()
    term.update_multipliers()
    assert value.item() == pytest.approx(-best.fun, abs=1e-6)
    assert -logits.grad[0].item() == pytest.approx(best.x, abs=1e-5) == pytest.approx(term.multipliers["a"], abs=1e-5)


def test_as_printed_is_the_papers_form_and_the_default_is_the_recommended_one():
    printed, default = AugmentedLagrangian.as_printed(["a"], mu=0.2, rho=2.0), AugmentedLagrangian(["a"])
    assert (printed.reduction, printed.multiplier_max, printed.auc_tolerance) == ("sum", math.inf, 0.0)
    assert printed.relaxation == 0
    assert repr(default) == repr(AugmentedLagrangian(["a"], **bundle_constraint()))


def bundle_constraint() -> dict[str, float | str]:
    """Return what the bundles give to the class; both must give the same."""
    root = Path(__file__).parents[2] / "bundles"
    given = []
    for name in ("cifar10", "prostate"):
        config = json.loads((root / name / "train.json").read_text())
        own = {
            key: value
            for key, value in config["constraint"].items()
            if not str(value).startswith("$") and key[0] != "_"
        }
        given.append(own | {"margin": config["delta"], "mu": config["mu0"], "rho": config["rho"]})
    assert given[0] == given[1]
    return given[0]


def test_accumulation_takes_the_last_forward_of_each_sample_once():
    term = make_term()
    labels = torch.tensor([1, 0])
    term(torch.tensor([0.0, 0.0]), labels, ["a", "n"])  # q of a: 1
    term(torch.tensor([0.0, 0.5]), labels, ["b", "n"])  # q of b: 1.5
    term(torch.tensor([0.0, 2.0]), labels, ["a", "n"])  # q of a: 3, the last
    term.update_multipliers()
    assert term.multipliers == pytest.approx({"a": 0.2 * 3, "b": 0.2 * 1.5})
    term.update_multipliers()  # nothing is pending any more
    assert term.multipliers == pytest.approx({"a": 0.2 * 3, "b": 0.2 * 1.5})


def test_a_skipped_step_leaves_the_multipliers():
    term = make_term()
    term(torch.zeros(2), torch.tensor([1, 0]), ["a", "n"])
    term.discard()
    term.update_multipliers()
    assert term.multipliers == {}
    assert term.step == 2
    assert term.state_dict()["_extra_state"]["skipped"] == 1


def test_a_skipped_step_of_the_gradient_scaler():
    """The rule of the handlers: a gradient that is not finite skips the step, and then λ rests."""
    network, term = nn.Linear(1, 1), make_term()
    x, labels, ids = torch.tensor([[1.0], [2.0]]), torch.tensor([1, 0]), ["a", "n"]
    for poison in (False, True):
        loss = term(network(x), labels, ids)
        loss.backward()
        if poison:
            network.weight.grad.fill_(math.inf)
        norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        before = term.multipliers
        term.update_multipliers() if torch.isfinite(norm) else term.discard()
        assert (term.multipliers == before) == poison


def test_rows_of_one_sample_are_one_constraint():
    term = make_term()
    logits = torch.tensor([0.0, 1.0, 0.5, 0.5, -0.5], dtype=torch.float64)
    value = term(logits, torch.tensor([1, 1, 0, 0, 0]), ["a", "a", "m", "m", "n"])
    rows = [[1.5, 1.5, 0.5], [0.5, 0.5, 0.0]]  # hinges of the two rows of a against m, m, n
    q = np.mean([0.5 * (row[0] + row[1]) + row[2] for row in rows])  # m counts once
    assert value.item() == pytest.approx(0.2 * q**2 / (2 * 1 * 2))
    term.update_multipliers()
    assert term.multipliers["a"] == pytest.approx(0.2 * q)


def test_exact_duplicates_change_nothing():
    logits, labels, ids = make_batch()
    term, padded = make_term(ids), make_term(ids)
    again = torch.tensor([0, 1, 2, 0])  # both classes, one of them twice more
    one = term(logits, labels, ids)
    two = padded(torch.cat([logits, logits[again]]), torch.cat([labels, labels[again]]), ids + [ids[i] for i in again])
    term.update_multipliers()
    padded.update_multipliers()
    assert one.item() == pytest.approx(two.item(), rel=1e-12)
    assert term.multipliers == pytest.approx(padded.multipliers, rel=1e-12)


def test_a_sample_with_both_labels_is_an_error():
    with pytest.raises(ValueError, match=r"labels must be the same in all rows of a sample, .* \['a'\]"):
        make_term()(torch.zeros(2), torch.tensor([1, 0]), ["a", "a"])


@pytest.mark.parametrize("form", [Tensor.float, Tensor.bool, Tensor.double, Tensor.int, lambda y: y[:, None].half()])
def test_labels_of_any_type_and_logits_with_a_column(form):
    logits, labels, ids = make_batch(dtype=torch.float32)
    expected = make_term(ids)(logits, labels, ids)
    assert torch.equal(make_term(ids)(logits[:, None], form(labels), ids), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_on_in_float32(dtype):
    logits, labels, ids = make_batch(dtype=dtype)
    logits = (logits * 300).requires_grad_()  # sums of violations overflow float16
    value = make_term(ids)(logits, labels, ids)
    expected = make_term(ids)(logits.detach().float(), labels, ids)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == expected.item()
    assert logits.grad.dtype == dtype


def test_under_autocast():
    torch.manual_seed(0)
    network, term = nn.Linear(4, 1), make_term([f"s{i}" for i in range(12)])
    x, (_, labels, ids) = torch.randn(12, 4), make_batch(12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
        value = ConstrainedLoss(make_loss("bce"), term)(logits, labels, ids)
    assert logits.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    value.backward()
    expected, _ = loop(logits.flatten().tolist(), labels, margin=1.0, mu=0.2, multipliers=[0.0] * 12)
    base = nn.functional.binary_cross_entropy_with_logits(logits.detach().float().flatten(), labels.float())
    assert value.item() == pytest.approx(expected + base.item(), rel=1e-6)
    assert network.weight.grad.abs().sum() > 0


def test_metatensors_become_tensors():
    logits, labels, ids = make_batch(dtype=torch.float32)
    expected = make_term(ids)(logits, labels, ids)
    value = make_term(ids)(MetaTensor(logits), MetaTensor(labels), ids)
    assert type(value) is Tensor
    assert torch.equal(value, expected)


def test_nothing_is_recorded_in_eval_mode_or_without_gradients():
    logits, labels, ids = make_batch()
    term = make_term(ids)
    with torch.no_grad():
        assert term(logits, labels, ids) > 0
    term.eval()
    assert term(logits, labels, ids) > 0
    term.train().update_multipliers()
    assert term.multipliers == {}
    assert term.diagnostics().q_max == 0.0


# --- convergence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "n"), [(1, 1), (2, 2), (1, 3), (3, 2)])
def test_the_method_of_multipliers_finds_the_known_solution(p, n):
    """Minimise |f|²/2 subject to f_j - g_k >= δ.

    f* = δN/(P+N), g* = -δP/(P+N); stationarity, f_j = λ_j N/(PN), gives λ* = δPN/(P+N). With the inner problem solved
    exactly, λ approaches λ* by the factor 1 / (1 + μN(1/P + 1/N)) in each iteration.
    """
    margin, mu, ids = 1.5, 2.0, [f"s{i}" for i in range(p + n)]
    labels = torch.tensor([1] * p + [0] * n)
    term = AugmentedLagrangian(ids, **PRINTED | {"margin": margin, "mu": mu, "rho": 1.0})
    outputs = torch.zeros(p + n, dtype=torch.float64, requires_grad=True)
    best = margin * p * n / (p + n)
    for iteration in range(1, 13):
        minimise(outputs, term, labels, ids)
        if iteration <= 4:
            distance = best / (1 + mu * n * (1 / p + 1 / n)) ** iteration
            np.testing.assert_allclose(list(term.multipliers.values()), best - distance, atol=1e-6)
    expected = [margin * n / (p + n)] * p + [-margin * p / (p + n)] * n
    np.testing.assert_allclose(outputs.detach().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(list(term.multipliers.values()), [best] * p, atol=5e-5)  # the solver stops at a kink


def test_a_constraint_that_cannot_be_met_costs_its_bound_and_no_more():
    """Minimise |f|²/2 subject to f_1 - g >= δ and f_2 - g >= δ, where the output f_2 is held at -10.

    Stationarity with λ = (λ_1, Λ): f_1 = λ_1 / 2 and g = -(λ_1 + Λ) / 2. The first constraint holds with equality,
    so λ_1 = δ - Λ / 2: the hopeless positive shifts the others by Λ / 2, and not by what its violation would ask for.
    """
    bound, margin, ids = 1.2, 1.5, ["a", "n", "b"]
    term = AugmentedLagrangian(ids, **PRINTED | {"margin": margin, "mu": 2.0, "multiplier_max": bound})
    outputs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    hopeless = torch.full((1,), -10.0, dtype=torch.float64)
    for _ in range(25):
        minimise(outputs, term, torch.tensor([1, 0, 1]), ids, fixed=hopeless)
    own = margin - bound / 2
    expected = [own / 2, -(own + bound) / 2]
    np.testing.assert_allclose(outputs.detach().numpy(), expected, atol=1e-4)
    np.testing.assert_allclose([term.multipliers["a"], term.multipliers["b"]], [own, bound], atol=1e-3)


@pytest.mark.parametrize("relaxation", [0.1, 0.5, 3.0])
def test_a_relaxed_constraint_is_met_but_for_what_relaxing_it_is_worth(relaxation):
    """Minimise |f|²/2 + s²/(2p) subject to f_1 - g >= δ - s.

    Stationarity: f_1 = λ, g = -λ, s = p λ, so δ - 2 λ = p λ. Without the price λ would be δ / 2.
    """
    margin = 1.5
    term = make_term(margin=margin, mu=2.0, relaxation=relaxation)
    outputs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for _ in range(40):
        minimise(outputs, term, torch.tensor([1, 0]), ["a", "n"])
    best = margin / (2 + relaxation)
    np.testing.assert_allclose(outputs.detach().numpy(), [best, -best], atol=1e-5)
    assert term.multipliers["a"] == pytest.approx(best, abs=1e-5)


def test_a_multiplier_falls_where_its_constraint_is_met_if_it_is_relaxed():
    """λ / (1 + μ p) at each step without a violation; a hard constraint keeps it for ever."""
    labels, ids = torch.tensor([1, 0]), ["a", "n"]
    for relaxation, falls in ((0.0, 1.0), (0.5, 1 / 1.2)):
        term = make_term(mu=0.4, relaxation=relaxation)
        term(torch.zeros(2), labels, ids)
        term.update_multipliers()
        first = term.multipliers["a"]
        for step in (1, 2, 3):
            assert term(torch.tensor([5.0, 0.0]), labels, ids).item() <= 0
            term.update_multipliers()
            assert term.multipliers["a"] == pytest.approx(first * falls**step)


def minimise(outputs, term, labels, ids, *, fixed=NOTHING):
    """Solve the inner problem by L-BFGS, then update λ once: the q of the last forward pass counts.

    The rows of `fixed` come after those of `outputs`.
    """
    solver = torch.optim.LBFGS(
        [outputs], max_iter=60, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        loss = 0.5 * outputs.square().sum() + term(torch.cat([outputs, fixed]), labels, ids)
        loss.backward()
        return loss

    solver.step(closure)
    term(torch.cat([outputs, fixed]), labels, ids)
    term.update_multipliers()
