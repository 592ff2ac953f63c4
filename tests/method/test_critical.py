"""The constraint of critical classes among K: loops over the formulas, the binary term, and what is refused."""

import math

import pytest
import torch
from torch import nn

from prostate_alm.method.class_metrics import require_critical
from prostate_alm.method.critical import CriticalClasses, log_odds
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss

CLASSES = 4


def make_batch(size=30, seed=0, *, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, classes, dtype=torch.float64, generator=generator)
    return logits, torch.arange(size) % classes, [f"s{i}" for i in range(size)]


RELAXATION = 0.1  # the default of the class


def score(row, critical, rivals):
    """Log-odds of softmax probabilities, in the words of the definition."""
    total = sum(math.exp(value) for value in row)
    p = [math.exp(value) / total for value in row]
    return math.log(p[critical] / sum(p[k] for k in rivals))


def loop(logits, labels, *, critical, rivals, against, multipliers, margin, mu, bound):
    """Eq. 7 and 8 sample by sample, with the bounded, relaxed Lagrangian as its maximum over λ."""
    rows, labels = logits.tolist(), labels.tolist()
    found, q = 0.0, {}
    positives = [i for i, y in enumerate(labels) if y == critical]
    negatives = [i for i, y in enumerate(labels) if y in rivals]
    for j in positives:
        total = 0.0
        for k in negatives:
            group = rivals if against == "rest" else [labels[k]]
            gap = score(rows[j], critical, group) - score(rows[k], critical, group)
            total += max(0.0, margin - gap)
        r, old = total / len(negatives), multipliers.get(f"s{j}", 0.0)
        new = min((old + mu * r) / (1 + mu * RELAXATION), bound)
        found += (new * r - RELAXATION * new**2 / 2 - (new - old) ** 2 / (2 * mu)) / len(positives)
        q[f"s{j}"] = new
    return found, multipliers | q


@pytest.mark.parametrize("against", ["rest", "each"])
@pytest.mark.parametrize("ordered", [False, True])
def test_equals_the_definition_class_by_class(against, ordered):
    """Two critical classes with margins, μ and multipliers of their own."""
    own = {2: {"margin": 1.5, "mu": 0.7}, 0: {"margin": 0.5, "multiplier_max": 1.0}}
    logits, labels, ids = make_batch()
    term = CriticalClasses(ids, own, classes=CLASSES, ordered=ordered, against=against, mu=0.4)
    rivals = {2: [0, 1, 3], 0: [1, 3] if ordered else [1, 2, 3]}
    given = {2: {"margin": 1.5, "mu": 0.7, "bound": 3.0}, 0: {"margin": 0.5, "mu": 0.4, "bound": 1.0}}
    multipliers = {2: {}, 0: {}}
    for step in range(3):
        shifted = (1 + 0.3 * step) * logits
        expected = 0.0
        for c in own:
            value, multipliers[c] = loop(
                shifted, labels, critical=c, rivals=rivals[c], against=against, multipliers=multipliers[c], **given[c]
            )
            expected += value
        assert term(shifted, labels, ids).item() == pytest.approx(expected, rel=1e-9)
        term.update_multipliers()
        assert term.terms["_class2"].multipliers == pytest.approx(multipliers[2], rel=1e-9)
        assert term.terms["_class0"].multipliers == pytest.approx(multipliers[0], rel=1e-9)


@pytest.mark.parametrize("against", ["rest", "each"])
@pytest.mark.parametrize("on", ["logit", "probability"])
def test_two_classes_are_the_binary_term_bit_by_bit(against, on):
    logits, _, ids = make_batch(classes=2)
    labels = (torch.arange(len(ids)) % 3 == 0).long()
    binary = AugmentedLagrangian(ids, on=on)
    term = CriticalClasses(ids, [1], classes=2, against=against, on=on)
    for step in range(4):
        f = (logits[:, 1] * (1 + step)).detach().requires_grad_()
        both = torch.stack([torch.zeros_like(f), f.detach()], dim=1).requires_grad_()
        one, other = binary(f, labels, ids), term(both, labels, ids)
        assert torch.equal(one, other)
        one.backward()
        other.backward()
        assert torch.equal(f.grad, both.grad[:, 1])
        binary.update_multipliers()
        term.update_multipliers()
        binary.observe_validation(0.9 - 0.2 * step)
        term.terms[""].observe_validation(0.9 - 0.2 * step)
    assert binary.multipliers == term.terms[""].multipliers
    assert binary.mu == term.terms[""].mu > 3.0


def test_the_score_is_that_of_the_softmax_probability_and_knows_no_common_offset():
    logits, _, _ = make_batch()
    probability = torch.softmax(logits, dim=1)[:, 3]
    found = log_odds(logits, 3, rivals=[0, 1, 2])
    torch.testing.assert_close(torch.sigmoid(found), probability)
    torch.testing.assert_close(log_odds(logits + 100 * torch.randn(len(logits), 1), 3, rivals=[0, 1, 2]), found)


@pytest.mark.parametrize("against", ["rest", "each"])
def test_numbers_of_the_other_classes_and_order_of_rows_do_not_matter(against):
    logits, labels, ids = make_batch()
    expected = CriticalClasses(ids, [1], classes=CLASSES, against=against)(logits, labels, ids)
    rename, order = torch.tensor([2, 1, 3, 0]), torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))
    renamed = torch.empty_like(logits)
    renamed[:, rename] = logits
    found = CriticalClasses(ids[::-1], [1], classes=CLASSES, against=against)(
        renamed[order], rename[labels][order], [ids[i] for i in order]
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("against", ["rest", "each"])
def test_gradcheck_with_multipliers(against):
    logits, labels, ids = make_batch(12)
    term = CriticalClasses(ids, [2, 1], classes=CLASSES, ordered=True, against=against)
    term(logits, labels, ids)
    term.update_multipliers()
    assert torch.autograd.gradcheck(lambda z: term(z, labels, ids), (logits.requires_grad_(),))


@pytest.mark.parametrize("labels", [[0, 0, 1], [3, 3, 3], []])
def test_a_batch_without_the_class_or_without_its_rivals_adds_nothing(labels):
    term = CriticalClasses(["a", "b", "c"], [3], classes=CLASSES)
    logits = torch.randn(len(labels), CLASSES, requires_grad=True)
    value = term(logits, torch.tensor(labels), ["a", "b", "c"][: len(labels)])
    value.backward()
    term.update_multipliers()
    assert value.item() == 0.0
    assert not logits.grad.any()
    assert not term.terms[""].multipliers


def test_the_samples_of_a_graver_class_are_left_alone():
    """Called the less grave class, they cost nothing in its constraint; called anything else, they do in their own."""
    logits, labels, ids = make_batch()
    term = CriticalClasses(ids, {1: {}, 2: {"margin": 3.0}}, classes=CLASSES, ordered=True)
    leaf = logits.clone().requires_grad_()
    less_grave = term.terms["_class2"]
    whole = term(leaf, labels, ids)
    whole.backward()
    term.update_multipliers()
    assert set(less_grave.multipliers) == {key for key, y in zip(ids, labels.tolist(), strict=True) if y == 2}
    alone = CriticalClasses(ids, [1], classes=CLASSES)
    only = logits.clone().requires_grad_()
    alone(only, labels, ids).backward()
    torch.testing.assert_close(leaf.grad[labels == 1], only.grad[labels == 1])


def test_100_steps_are_60_and_save_and_load_and_40(tmp_path):
    def train(steps, saved=None):
        torch.manual_seed(0)
        network = nn.Linear(6, CLASSES)
        ids = [f"s{i}" for i in range(40)]
        x, labels = torch.randn(40, 6), torch.arange(40) % CLASSES
        term = CriticalClasses(ids, [3, 0], classes=CLASSES)
        loss = ConstrainedLoss(nn.CrossEntropyLoss(), term)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        if saved is not None:
            network.load_state_dict(saved["network"])
            loss.load_state_dict(saved["loss"])
        for step in steps:
            rows = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:20]
            optimizer.zero_grad()
            loss(network(x[rows]), labels[rows], [ids[i] for i in rows]).backward()
            optimizer.step()
            term.update_multipliers()
            if step % 10 == 9:
                for place, one in enumerate(term.terms.values()):
                    one.observe_validation(0.9 - 0.006 * step * place)
        return {"network": network.state_dict(), "loss": loss.state_dict()}

    torch.save(train(range(60)), tmp_path / "half.pt")
    resumed = train(range(60, 100), torch.load(tmp_path / "half.pt", weights_only=True))
    whole = train(range(100))
    assert resumed["loss"] == whole["loss"]
    assert all(torch.equal(one, resumed["network"][name]) for name, one in whole["network"].items())
    states = [state for name, state in whole["loss"].items() if name.endswith("_extra_state")]
    assert len(states) == 2
    assert all(state["multipliers"] for state in states)
    assert states[0]["mu"] != states[1]["mu"]  # each follows its own AUC


def test_gradients_of_both_parts_are_measured():
    logits, labels, ids = make_batch()
    term = CriticalClasses(ids, [3], classes=CLASSES)
    leaf = logits.requires_grad_()
    ConstrainedLoss(nn.CrossEntropyLoss(), term)(leaf, labels, ids).backward()
    parts = []
    for part in (nn.CrossEntropyLoss(), lambda z, y: CriticalClasses(ids, [3], classes=CLASSES)(z, y, ids)):
        copy = logits.detach().requires_grad_()
        part(copy, labels).backward()
        parts.append(copy.grad.norm().item())
    assert term.terms[""].diagnostics().gradient_ratio == pytest.approx(parts[1] / parts[0], rel=1e-9)


@pytest.mark.parametrize(
    ("critical", "message"),
    [
        ([4], r"critical must be classes from 0 to 3, got 4 in \[4\]"),
        (["cat"], r"critical must be classes from 0 to 3, got 'cat' in \['cat'\]"),
        ([1, 2, 1], r"critical must name each class once, got \[1, 2, 1\] of 4 classes"),
        ([], r"critical must name at least one class and leave at least one, got \[\] of 4 classes"),
        ([3, 2, 1, 0], r"critical must name at least one class and leave at least one, got \[3, 2, 1, 0\] of 4"),
    ],
)
def test_critical_classes_that_cannot_be(critical, message):
    with pytest.raises(ValueError, match=message):
        CriticalClasses(["a"], critical, classes=CLASSES)
    with pytest.raises(ValueError, match=message):
        require_critical(critical, classes=CLASSES)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), [0, 1], r"logits must have shape \(2, 4\), one row for each of .*, got \(2, 3\)"),
        (torch.zeros(2), [0, 1], r"logits must have shape \(2, 4\), .* got \(2,\)"),
        (torch.zeros(2, 4), [0, 4], r"labels must be whole numbers from 0 to 3, got \[4\] in a batch"),
        (torch.zeros(2, 4), [0, -1], r"labels must be whole numbers from 0 to 3, got \[-1\] in a batch"),
        (torch.zeros(2, 4), [0.5, 1], r"labels must be whole numbers from 0 to 3, got \[0.5\] in a batch"),
        (torch.zeros(2, 4), [0], r"labels must have shape \(2,\) or \(2, 1\), .* got \(1,\)"),
        (
            torch.tensor([[0.0] * 4, [0, math.inf, 0, 0]]),
            [0, 1],
            r"logits must be finite, got inf for \['n'\] at step 0",
        ),
        (torch.zeros(2, 4), [3, 0], r"the id of a positive must be one of the 1 given .*, got 'x'"),
    ],
)
def test_batches_that_cannot_be(logits, labels, message):
    term = CriticalClasses(["a"], [3], classes=CLASSES)
    with pytest.raises(ValueError, match=message):
        term(logits, torch.tensor(labels), ["x", "n"])
    with pytest.raises(ValueError, match="against must be one of"):
        CriticalClasses(["a"], [3], classes=CLASSES, against="all")
