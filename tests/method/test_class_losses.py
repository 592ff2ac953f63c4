"""The base losses of K classes against torch, MONAI and formulas written out sample by sample in float64."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from monai.losses import FocalLoss
from torch import nn

from prostate_alm.method.class_losses import CLASS_LOSSES, make_class_loss
from prostate_alm.method.losses import make_loss

COUNTS = (70, 20, 9, 1)
K = len(COUNTS)
WITH_COUNTS = {name: {"class_counts": COUNTS} if name not in ("ce", "focal") else {} for name in CLASS_LOSSES}
EACH = pytest.mark.parametrize(("name", "parameters"), WITH_COUNTS.items(), ids=[*WITH_COUNTS])


def batch(size=40, seed=0, *, classes=K):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(size, classes, dtype=torch.float64, generator=generator), torch.arange(size) % classes


def written_out(name, z, y, p):
    """One sample's loss from the definition, without any care for stability."""
    counts = np.array(COUNTS)

    def hit(values):
        return (np.exp(values) / np.exp(values).sum())[y]

    effective = (1 - p.get("beta", 0.9) ** counts) / (1 - p.get("beta", 0.9))
    balanced = (1 / effective) / (1 / effective).sum() * K
    margins = counts**-0.25 / (counts**-0.25).max() * p.get("max_margin", 0.0)
    rare = counts ** -p.get("power", 1.0)
    return {
        "ce": lambda: -math.log(hit(z)),
        "w_ce": lambda: -(rare / rare.sum() * K)[y] * math.log(hit(z)),
        "cb_ce": lambda: -balanced[y] * math.log(hit(z)),
        "focal": lambda: -((1 - hit(z)) ** p["gamma"]) * math.log(hit(z)),
        "ldam": lambda: -balanced[y] * math.log(hit(p["scale"] * (z - margins * np.eye(K)[y]))),
        "la": lambda: -math.log(hit(z + p["tau"] * np.log(counts / counts.sum()))),
    }[name]()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ce", {}),
        ("w_ce", {"power": 0.5}),
        ("w_ce", {"power": 1.0}),
        ("cb_ce", {"beta": 0.99}),
        ("cb_ce", {"beta": 0.9999}),
        ("focal", {"gamma": 0.5}),
        ("focal", {"gamma": 4}),
        ("ldam", {"max_margin": 0.5, "scale": 3.0, "beta": 0.999}),
        ("la", {"tau": 1.0}),
        ("la", {"tau": 2.0}),
    ],
)
def test_equals_the_definition(name, parameters):
    logits, labels = batch()
    expected = [written_out(name, z, y, parameters) for z, y in zip(logits.numpy(), labels.tolist(), strict=True)]
    found = make_class_loss(name, classes=K, **parameters | WITH_COUNTS[name])(logits, labels)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ce", {}),
        ("w_ce", {"power": 0}),
        ("cb_ce", {"beta": 0}),
        ("focal", {"gamma": 0}),
        ("ldam", {"max_margin": 0, "beta": 0}),
        ("la", {"tau": 0}),
    ],
)
def test_reduces_to_torchs_cross_entropy(name, parameters):
    logits, labels = batch()
    found = make_class_loss(name, classes=K, **parameters | WITH_COUNTS[name])(logits, labels)
    torch.testing.assert_close(found, nn.CrossEntropyLoss()(logits, labels))


def test_weights_are_those_of_torch_but_for_the_mean():
    """Torch divides by the sum of the weights of the batch; a mean over samples does not."""
    logits, labels = batch()
    weights = torch.tensor([K / c / sum(1 / n for n in COUNTS) for c in COUNTS], dtype=torch.float64)
    expected = nn.CrossEntropyLoss(weight=weights, reduction="sum")(logits, labels) / len(labels)
    torch.testing.assert_close(make_class_loss("w_ce", classes=K, class_counts=COUNTS)(logits, labels), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_monais(gamma):
    """MONAI sums over the classes' one-hot rows and takes a mean over all K columns."""
    logits, labels = batch()
    logits = logits.float()
    expected = FocalLoss(gamma=gamma, use_softmax=True, to_onehot_y=True)(logits, labels[:, None]) * K
    torch.testing.assert_close(make_class_loss("focal", classes=K, gamma=gamma)(logits, labels), expected)


def test_ldam_of_two_classes_is_the_binary_one():
    logits, labels = batch(classes=2)
    logits[:, 0] = 0
    given = {"class_counts": (90, 10), "max_margin": 0.3, "scale": 5.0}
    expected = make_loss("ldam", **given)(logits[:, 1], labels)
    torch.testing.assert_close(make_class_loss("ldam", classes=2, beta=0.0, **given)(logits, labels), expected)


def test_logit_adjustment_of_the_bayes_logits_of_equal_classes_is_the_cross_entropy_of_those_of_the_data():
    """Menon et al.: with likelihoods l, log-posteriors of the data are log l + log π; the loss adds the latter."""
    logits, labels = batch()
    shares = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    expected = nn.CrossEntropyLoss()(logits + shares.log(), labels)
    torch.testing.assert_close(make_class_loss("la", classes=K, class_counts=COUNTS)(logits, labels), expected)


@pytest.mark.parametrize("name", ["w_ce", "cb_ce", "ldam"])
def test_weights_can_be_deferred(name):
    logits, labels = batch()
    loss = make_class_loss(name, classes=K, class_counts=COUNTS)
    weighted = loss(logits, labels)
    loss.weighs = False
    plain = make_class_loss(name, classes=K, class_counts=(5,) * K)(logits, labels)
    if name != "ldam":  # whose margins depend on the counts, too
        torch.testing.assert_close(loss(logits, labels), plain)
    assert loss(logits, labels) != weighted
    loss.weighs = True
    assert loss(logits, labels) == weighted


@EACH
def test_gradient(name, parameters):
    logits, labels = batch(8)
    loss = make_class_loss(name, classes=K, **parameters)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), (logits.requires_grad_(),))


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stable_for_logits_up_to_ten_thousand(name, parameters, dtype):
    logits = (1e4 * torch.cat([torch.eye(K), -torch.eye(K), torch.zeros(1, K)])).to(dtype).requires_grad_()
    loss = make_class_loss(name, classes=K, **parameters)(logits, torch.tensor([0, 1, 2, 3, 0, 1, 3, 2, 0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


@EACH
def test_a_common_offset_of_the_logits_and_the_order_of_rows_do_not_matter(name, parameters):
    logits, labels = batch()
    loss = make_class_loss(name, classes=K, **parameters)
    expected = loss(logits, labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss((logits + 5 * torch.randn(len(logits), 1))[order], labels[order]), expected)
    torch.testing.assert_close(loss(logits, labels[:, None].float()), expected)


@EACH
def test_copies_and_pickles(name, parameters):
    logits, labels = batch()
    loss = make_class_loss(name, classes=K, **parameters)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(logits, labels), loss(logits, labels))
    assert repr(loss).startswith(f"ClassLoss({name}, classes=4")
    assert not loss.state_dict()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("bce", {}, r"loss must be a known one .*, got 'bce'. Available: \['ce', 'w_ce', "),
        ("w_ce", {"power": -1, "class_counts": COUNTS}, "power must be finite and >= 0, got -1 in w_ce"),
        ("cb_ce", {"beta": 1.0, "class_counts": COUNTS}, r"beta must be finite and in \[0, 1\), got 1.0 in cb_ce"),
        ("focal", {"gamma": math.nan}, "gamma must be finite and >= 0, got nan in focal"),
        ("ldam", {"scale": 0, "class_counts": COUNTS}, "scale must be finite and > 0, got 0 in ldam"),
        ("la", {"tau": -0.1, "class_counts": COUNTS}, "tau must be finite and >= 0, got -0.1 in la"),
        (
            "la",
            {"class_counts": (5, 0, 1, 1)},
            r"class_counts must be one number >= 1 for each of 4 classes, got \(5, 0",
        ),
        ("w_ce", {"class_counts": (5, 1)}, r"class_counts must be one number >= 1 for each of 4 classes, got \(5, 1\)"),
    ],
)
def test_parameters_out_of_range(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_class_loss(name, classes=K, **parameters)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (
            torch.zeros(2, 3),
            [0, 1],
            r"logits must have shape \(B, 4\) and labels \(B,\), .*got \(2, 3\) and \(2,\) in ce",
        ),
        (torch.zeros(0, 4), [], r"B at least 1, got \(0, 4\) and \(0,\) in ce"),
        (torch.zeros(2, 4), [0, 4], r"labels must be whole numbers from 0 to 3, got \[4\] in ce"),
    ],
)
def test_bad_batches(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        make_class_loss("ce", classes=K)(logits, torch.tensor(labels))
