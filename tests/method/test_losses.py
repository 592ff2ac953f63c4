"""The base losses against torch, MONAI and formulas written out sample by sample in float64."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from monai.losses import FocalLoss
from scipy.optimize import minimize_scalar
from torch import nn

from prostate_alm.method.losses import LogitPenalty, make_loss

COUNTS = {"class_counts": (90, 10)}
ALL = [
    ("bce", {}),
    ("s_ml", {}),
    ("a_ml", {}),
    ("s_fl", {}),
    ("a_fl", {}),
    ("w_bce", {}),
    ("cb_bce", COUNTS),
    ("msfe", {}),
    ("mbauc", {}),
    ("ldam", COUNTS),
]
EACH = pytest.mark.parametrize(("name", "parameters"), ALL, ids=[name for name, _ in ALL])


def batch(size=40, seed=0, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, dtype=torch.float64, generator=generator)
    labels = (torch.rand(size, generator=generator) < 0.3).long()
    return logits.to(dtype), labels


def cross_entropy(signed):
    return math.log1p(math.exp(-signed))


def written_out(name, z, y, p):
    """One sample's loss from the definition, without any care for stability."""
    s = z if y else -z
    return {
        "s_ml": lambda: cross_entropy(s - p["margin"]),
        "a_ml": lambda: cross_entropy(s - p["margin"] * y),
        "s_fl": lambda: (1 - 1 / (1 + math.exp(-s))) ** p["gamma"] * cross_entropy(s),
        "a_fl": lambda: (1 if y else (1 / (1 + math.exp(-z))) ** p["gamma"]) * cross_entropy(s),
        "w_bce": lambda: (p["weight"] if y else 1) * cross_entropy(s),
    }[name]()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("s_ml", {"margin": m}) for m in (0.1, 0.5, 2, 4)]
    + [("a_ml", {"margin": m}) for m in (0.1, 0.5, 2, 4)]
    + [("s_fl", {"gamma": g}) for g in (1, 2, 4, 5)]
    + [("a_fl", {"gamma": g}) for g in (1, 2, 4, 5)]
    + [("w_bce", {"weight": c}) for c in (0.5, 2, 19)],
)
def test_equals_the_definition(name, parameters):
    logits, labels = batch()
    samples = [written_out(name, z, y, parameters) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert make_loss(name, **parameters)(logits, labels).item() == pytest.approx(np.mean(samples), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bce", {}),
        ("s_ml", {"margin": 0}),
        ("a_ml", {"margin": 0}),
        ("s_fl", {"gamma": 0}),
        ("a_fl", {"gamma": 0}),
        ("w_bce", {"weight": 1}),
        ("cb_bce", {"class_counts": (7, 7)}),
        ("cb_bce", {"class_counts": (70, 7), "beta": 0}),
        ("ldam", {"class_counts": (70, 7), "max_margin": 0}),
    ],
)
def test_reduces_to_torchs_cross_entropy(name, parameters):
    logits, labels = batch()
    expected = nn.BCEWithLogitsLoss()(logits, labels.double())
    torch.testing.assert_close(make_loss(name, **parameters)(logits, labels), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_symmetric_focal_loss_is_monais(gamma):
    logits, labels = batch(dtype=torch.float32)
    expected = FocalLoss(gamma=gamma)(logits[:, None], labels[:, None].float())
    torch.testing.assert_close(make_loss("s_fl", gamma=gamma)(logits, labels), expected)


def test_weighted_loss_is_torchs_pos_weight():
    logits, labels = batch()
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(6.0))(logits, labels.double())
    torch.testing.assert_close(make_loss("w_bce", weight=6.0)(logits, labels), expected)


def test_class_balanced_weights_are_those_of_the_effective_numbers():
    logits, labels = batch()
    effective = [(1 - 0.99**n) / (1 - 0.99) for n in (90, 10)]
    weights = np.array([1 / e for e in effective])
    weights *= 2 / weights.sum()  # normalised to the number of classes, section 4 of Cui et al.
    each = nn.BCEWithLogitsLoss(reduction="none")(logits, labels.double()).numpy()
    expected = np.mean(weights[labels.numpy()] * each)
    found = make_loss("cb_bce", beta=0.99, class_counts=(90, 10))(logits, labels)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_mean_squared_false_error_written_out():
    logits, labels = batch()
    p, y = torch.sigmoid(logits).numpy(), labels.numpy()
    false_positive, false_negative = np.mean(p[y == 0] ** 2 / 2), np.mean((1 - p[y == 1]) ** 2 / 2)
    expected = false_positive**2 + false_negative**2
    assert make_loss("msfe")(logits, labels).item() == pytest.approx(expected, rel=1e-12)


def test_mini_batch_auc_is_the_mean_over_all_pairs():
    logits, labels = batch()
    z, y = logits.numpy(), labels.numpy()
    pairs = (1 - (z[y == 1][:, None] - z[y == 0])) ** 2
    assert make_loss("mbauc")(logits, labels).item() == pytest.approx(pairs.mean(), rel=1e-12)


def test_ldam_is_softmax_cross_entropy_of_two_logits_with_a_margin():
    logits, labels = batch()
    margins = np.array([90.0, 10.0]) ** -0.25
    margins *= 0.3 / margins.max()
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    two[torch.arange(len(labels)), labels] -= torch.tensor(margins)[labels]
    expected = nn.CrossEntropyLoss()(5.0 * two, labels)
    found = make_loss("ldam", class_counts=(90, 10), max_margin=0.3, scale=5.0)(logits, labels)
    torch.testing.assert_close(found, expected)


@EACH
def test_gradient(name, parameters):
    logits, labels = batch(12)
    loss = make_loss(name, **parameters)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), (logits.requires_grad_(),))


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stable_for_logits_up_to_ten_thousand(name, parameters, dtype):
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    loss = make_loss(name, **parameters)(logits, torch.tensor([0, 1, 1, 0, 1]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


@EACH
def test_shape_type_and_order_of_the_rows_do_not_matter(name, parameters):
    logits, labels = batch(dtype=torch.float32)
    loss = make_loss(name, **parameters)
    expected = loss(logits, labels)
    assert expected.shape == ()
    torch.testing.assert_close(loss(logits[:, None], labels[:, None].float()), expected)
    torch.testing.assert_close(loss(logits[:, None], labels.bool()), expected)
    shuffle = torch.randperm(len(labels))
    torch.testing.assert_close(loss(logits[shuffle], labels[shuffle]), expected)


@EACH
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone(name, parameters, label):
    logits = torch.tensor([0.5, -0.5], requires_grad=True)
    loss = make_loss(name, **parameters)(logits, torch.full((2,), label))
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


@EACH
def test_copies_and_pickles(name, parameters):
    logits, labels = batch()
    loss = make_loss(name, **parameters)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(logits, labels), loss(logits, labels))
    assert repr(loss).startswith(f"BaseLoss({name}")
    assert not loss.state_dict()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("s_ml", {"margin": -1}, "margin must be finite and >= 0, got -1 in s_ml"),
        ("a_ml", {"margin": math.nan}, "margin must be finite and >= 0, got nan in a_ml"),
        ("s_fl", {"gamma": -0.1}, "gamma must be finite and >= 0, got -0.1 in s_fl"),
        ("a_fl", {"gamma": math.inf}, "gamma must be finite and >= 0, got inf in a_fl"),
        ("w_bce", {"weight": 0}, "weight must be finite and > 0, got 0 in w_bce"),
        ("cb_bce", {"beta": 1.0, **COUNTS}, r"beta must be finite and in \[0, 1\), got 1.0 in cb_bce"),
        ("cb_bce", {"class_counts": (0, 5)}, r"class_counts must be \(negatives, positives\), .* \(0, 5\) in cb_bce"),
        ("ldam", {"class_counts": (5,)}, r"class_counts must be \(negatives, positives\), .* \(5,\) in ldam"),
        ("ldam", {"max_margin": -1, **COUNTS}, "max_margin must be finite and >= 0, got -1 in ldam"),
        ("ldam", {"scale": 0, **COUNTS}, "scale must be finite and > 0, got 0 in ldam"),
        ("focal", {}, r"loss must be a known one or module.function .*, got 'focal'. Available: \['bce', 's_ml', "),
        ("nowhere.focal", {}, "loss must be a known one or module.function of your own .*, got 'nowhere.focal'"),
        ("math.pi", {}, "loss must be a known one or module.function of your own .*, got 'math.pi'"),
    ],
)
def test_parameters_out_of_range(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_loss(name, **parameters)


@pytest.mark.parametrize("name", ["cb_bce", "ldam"])
def test_class_counts_have_no_default(name):
    with pytest.raises(
        TypeError, match=f"parameters of {name} must be .*: missing a required( keyword-only)? argument: 'class_counts'"
    ):
        make_loss(name)


def test_a_parameter_of_another_loss():
    with pytest.raises(TypeError, match=r"parameters of s_ml must be \['margin'\], got \['gamma'\]"):
        make_loss("s_ml", gamma=2.0)


def test_bad_batches():
    loss = make_loss("bce")
    with pytest.raises(ValueError, match=r"labels must be 0 or 1, got 2.0 in bce"):
        loss(torch.zeros(2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"same number of rows, at least 1, got \(2,\) and \(3,\) in bce"):
        loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="at least 1"):
        loss(torch.zeros(0), torch.zeros(0))


def test_the_penalty_on_logits_is_their_mean_square_for_one_output_and_for_several():
    logits, labels = batch()
    expected = make_loss("bce")(logits, labels) + 0.3 * sum(z * z for z in logits.tolist()) / len(logits)
    assert LogitPenalty(make_loss("bce"), 0.3)(logits, labels).item() == pytest.approx(expected.item(), rel=1e-12)
    several = torch.randn(6, 4, dtype=torch.float64)
    penalised = LogitPenalty(nn.CrossEntropyLoss(), 0.5)(several, torch.arange(6) % 4)
    assert penalised - nn.CrossEntropyLoss()(several, torch.arange(6) % 4) == pytest.approx(
        0.5 * np.square(several.numpy()).mean(), rel=1e-12
    )
    large = torch.tensor([1000.0, -1000.0], dtype=torch.float16)  # their squares are beyond float16
    assert LogitPenalty(make_loss("bce"), 0.1)(large, torch.tensor([1, 0])).item() == pytest.approx(1e5)


def test_penalised_cross_entropy_is_least_where_scipy_finds_it():
    found = minimize_scalar(lambda z: math.log1p(math.exp(-z)) + 0.1 * z * z, bounds=(0, 10), method="bounded").x
    z = torch.tensor([found, -found], dtype=torch.float64, requires_grad=True)
    LogitPenalty(make_loss("bce"), 0.1)(z, torch.tensor([1, 0])).backward()
    assert found == pytest.approx(1.2, abs=0.05)  # what the docstring says, and that the margin of 1 is met
    assert z.grad.abs().max() < 1e-5


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_of_the_penalty_out_of_range(weight):
    with pytest.raises(ValueError, match=r"weight must be finite and >= 0, got .* in LogitPenalty"):
        LogitPenalty(make_loss("bce"), weight)
