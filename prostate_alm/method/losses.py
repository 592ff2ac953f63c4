"""The base losses F(θ): ten functions of logits and labels, chosen by the names of the paper's tables, or one's own."""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from prostate_alm.method.batch import plain, plain_float

Formula = Callable[[Tensor, Tensor], Tensor]
Maker = Callable[..., Any]
"""Parameters of a loss, by name, to its formula."""


class BaseLoss(nn.Module):
    """F(θ) of one mini-batch; made by ``make_loss``.

    Args:
        name: the name given to ``make_loss``.
        formula: logits and labels, both (B,) and floating, to a scalar.
        parameters: what the formula was made with, for ``print(loss)``.
    """

    def __init__(self, name: str, formula: Formula, parameters: dict[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.parameters_of_name = parameters
        self._formula = formula

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss as a scalar.

        Args:
            logits: (B,) or (B, 1), B >= 1, any floating type; half precision is computed on in float32.
            labels: same number of rows, 0 or 1 in any type.

        Returns:
            A scalar, float32 or float64.

        Raises:
            ValueError: the numbers of rows differ, there is no row, or a label is not 0 or 1.
        """
        flat = plain_float(logits).reshape(-1)
        target = plain(labels).reshape(-1).to(flat.dtype)
        if flat.shape != target.shape or not len(flat):
            raise ValueError(
                f"logits and labels must have the same number of rows, at least 1, got {tuple(logits.shape)} and "
                f"{tuple(labels.shape)} in {self.name}"
            )
        wrong = target[(target != 0) & (target != 1)]
        if len(wrong):
            raise ValueError(f"labels must be 0 or 1, got {wrong[0].item()} in {self.name}")
        return self._formula(flat, target)

    def extra_repr(self) -> str:
        """Return name and parameters."""
        return ", ".join([self.name, *(f"{key}={value}" for key, value in self.parameters_of_name.items())])


class LogitPenalty(nn.Module):
    """F(θ) + c · mean of z²: a base loss whose logits stay small.

    A network that knows its training samples by heart lowers cross-entropy further by larger logits alone. Scores of
    other samples then have long tails, which a mean over the members of an ensemble does not even out. With c = 0.1 the
    logits of cross-entropy end at ±1.2, a gap that exceeds the margin of 1.

    Args:
        base: F(θ), called as ``base(logits, labels)``; returns a scalar.
        weight: c, finite and at least 0; 0 is F alone.

    Raises:
        ValueError: the weight is out of range.

    Reference:
        Kannan et al. 2018, arXiv:1803.06373, section 5.1: logit squeezing.

    >>> loss = LogitPenalty(make_loss("bce"), 0.1)
    >>> loss(torch.tensor([0.0, 2.0]), torch.tensor([1, 1]))  # log 2 and log(1 + exp(-2)) on average, 0.1 * (0 + 4) / 2
    tensor(0.6100)
    """

    def __init__(self, base: nn.Module, weight: float) -> None:
        super().__init__()
        check_parameter("weight", weight, "LogitPenalty", weight >= 0, ">= 0")
        self.base, self.weight = base, weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum as a scalar.

        Args:
            logits: (B,) or (B, K), B >= 1, any floating type; half precision is squared in float32.
            labels: as the base takes them.
        """
        value: Tensor = self.base(logits, labels)
        return value + self.weight * plain_float(logits).square().mean()

    def extra_repr(self) -> str:
        """Return the weight."""
        return f"weight={self.weight}"


def make_loss(name: str, **parameters: Any) -> BaseLoss:
    """Return a base loss, called as ``loss(logits, labels)``, a mean over the batch; stable for logits to ±1e4.

    With z the logit, p its sigmoid, y the label, s = z for positives and -z for negatives, and
    ℓ(u) = log(1 + exp(-u)):

    ========  ====================================================  =========================================
    name      one sample's loss (or the batch's)                    parameters (default), range
    ========  ====================================================  =========================================
    bce       ℓ(s)
    s_ml      ℓ(s - m): margin for both classes                     margin (0.5) >= 0, in logits
    a_ml      ℓ(s - m) for positives, ℓ(s) for negatives            margin (0.5) >= 0, in logits
    s_fl      (1 - sigmoid(s))^γ ℓ(s)                               gamma (2) >= 0
    a_fl      ℓ(s) for positives, p^γ ℓ(s) for negatives            gamma (2) >= 0
    w_bce     c ℓ(s) for positives, ℓ(s) for negatives              weight (2) > 0
    cb_bce    w_y ℓ(s), w_y ∝ (1 - β) / (1 - β^n_y), w_0 + w_1 = 2  beta (0.999) in [0, 1); class_counts
    msfe      a² + b², a (b) mean of (p - y)² / 2 over negatives
              (positives)
    mbauc     mean over pairs of (1 - (z_j - z_k))²
    ldam      ℓ(S (s - Δ_y)), Δ_y ∝ n_y^(-1/4), largest Δ as given  max_margin (0.5) >= 0, scale S (1) > 0;
                                                                    class_counts
    ========  ====================================================  =========================================

    ``class_counts`` is (negatives, positives) of the training set, both at least 1; it has no default.
    A class that is absent from the batch adds 0 to msfe, and makes mbauc 0.

    Args:
        name: one of the names above, or `module.function` of a function of your own, which takes its parameters by name
            and returns the formula: logits and labels, both (B,) and floating, to a scalar.
        **parameters: those of the table, or of your function.

    Returns:
        The loss as a module without weights.

    Raises:
        ValueError: the name is unknown or a parameter is out of its range.
        TypeError: a parameter is missing or does not belong to the name.

    Reference:
        bce, w_bce: Zadrozny et al. 2003, cost-proportionate weights. s_ml: Liu et al. 2016, arXiv:1612.02295, with
        the additive margin of Li et al. a_ml, a_fl: Li et al. 2019, arXiv:1907.10982, asymmetric large margin loss
        and asymmetric focal loss. s_fl: Lin et al. 2017, arXiv:1708.02002, Eq. 4. cb_bce: Cui et al. 2019,
        arXiv:1901.05555, class-balanced sigmoid cross-entropy, weights normalised to the number of classes.
        msfe: Wang et al. 2016, doi:10.1109/IJCNN.2016.7727770, mean squared false error. mbauc: Gultekin et al.
        2020, arXiv:1805.11221, square loss over the pairs of a mini-batch. ldam: Cao et al. 2019,
        arXiv:1906.07413, Eq. 12 and 13.

    >>> loss = make_loss("w_bce", weight=3.0)
    >>> loss(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))  # (3 + 1) / 2 * log 2
    tensor(1.3863)
    """
    maker = maker_of(name, LOSSES)
    whole = with_defaults(name, maker, parameters)
    return BaseLoss(name, maker(**whole), whole)


def parameters_of(name: str, losses: Mapping[str, Maker] | None = None) -> tuple[str, ...]:
    """Return the names of a loss's parameters, `class_counts` among them where it weighs classes.

    Args:
        name: as for `make_loss`.
        losses: among which; `LOSSES` when None.

    Raises:
        ValueError: there is no such loss.

    >>> parameters_of("cb_bce")
    ('class_counts', 'beta')
    """
    return tuple(inspect.signature(maker_of(name, LOSSES if losses is None else losses)).parameters)


def _bce() -> Formula:
    return binary_cross_entropy_with_logits


def _s_ml(*, margin: float = 0.5) -> Formula:
    check_parameter("margin", margin, "s_ml", margin >= 0, ">= 0")
    return partial(_margin_loss, negative=margin, positive=margin)


def _a_ml(*, margin: float = 0.5) -> Formula:
    check_parameter("margin", margin, "a_ml", margin >= 0, ">= 0")
    return partial(_margin_loss, negative=0.0, positive=margin)


def _s_fl(*, gamma: float = 2.0) -> Formula:
    check_parameter("gamma", gamma, "s_fl", gamma >= 0, ">= 0")
    return partial(_focal_loss, negative=gamma, positive=gamma)


def _a_fl(*, gamma: float = 2.0) -> Formula:
    check_parameter("gamma", gamma, "a_fl", gamma >= 0, ">= 0")
    return partial(_focal_loss, negative=gamma, positive=0.0)


def _w_bce(*, weight: float = 2.0) -> Formula:
    check_parameter("weight", weight, "w_bce", weight > 0, "> 0")
    return partial(_weighted_loss, negative=1.0, positive=weight)


def _cb_bce(*, class_counts: tuple[int, int], beta: float = 0.999) -> Formula:
    check_parameter("beta", beta, "cb_bce", 0 <= beta < 1, "in [0, 1)")
    effective = [1 - beta**count for count in _counts(class_counts, "cb_bce")]
    negative, positive = (2 / number / sum(1 / each for each in effective) for number in effective)
    return partial(_weighted_loss, negative=negative, positive=positive)


def _msfe() -> Formula:
    return _squared_false_error


def _mbauc() -> Formula:
    return _pair_square_loss


def _ldam(*, class_counts: tuple[int, int], max_margin: float = 0.5, scale: float = 1.0) -> Formula:
    check_parameter("max_margin", max_margin, "ldam", max_margin >= 0, ">= 0")
    check_parameter("scale", scale, "ldam", scale > 0, "> 0")
    counts = _counts(class_counts, "ldam")
    negative, positive = (max_margin * (min(counts) / count) ** 0.25 for count in counts)
    return partial(_margin_loss, negative=negative, positive=positive, scale=scale)


LOSSES: dict[str, Maker] = {
    "bce": _bce,
    "s_ml": _s_ml,
    "s_fl": _s_fl,
    "a_ml": _a_ml,
    "a_fl": _a_fl,
    "w_bce": _w_bce,
    "cb_bce": _cb_bce,
    "msfe": _msfe,
    "mbauc": _mbauc,
    "ldam": _ldam,
}
"""The one place where a loss has its name, in the order of the paper's tables; settings, plans and tables read it."""


def _margin_loss(logits: Tensor, labels: Tensor, *, negative: float, positive: float, scale: float = 1.0) -> Tensor:
    margin = _of_class(labels, negative, positive)
    return -logsigmoid(scale * (_signed(logits, labels) - margin)).mean()


def _focal_loss(logits: Tensor, labels: Tensor, *, negative: float, positive: float) -> Tensor:
    signed, gamma = _signed(logits, labels), _of_class(labels, negative, positive)
    # (1 - sigmoid(s))^γ = exp(γ log sigmoid(-s)) has a finite gradient everywhere, γ = 0 included.
    return -(torch.exp(gamma * logsigmoid(-signed)) * logsigmoid(signed)).mean()


def _weighted_loss(logits: Tensor, labels: Tensor, *, negative: float, positive: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, labels, weight=_of_class(labels, negative, positive))


def _squared_false_error(logits: Tensor, labels: Tensor) -> Tensor:
    error = 0.5 * torch.sigmoid(-_signed(logits, labels)).square()
    positive = (error * labels).sum() / labels.sum().clamp(min=1)
    negative = (error * (1 - labels)).sum() / (1 - labels).sum().clamp(min=1)
    return positive.square() + negative.square()


def _pair_square_loss(logits: Tensor, labels: Tensor) -> Tensor:
    positive, negative = logits[labels == 1], logits[labels == 0]
    if not len(positive) or not len(negative):
        return logits.sum() * 0.0
    # The mean over all pairs of (1 - d)² is (1 - mean d)² + var d, and the variances of the classes add.
    gap = 1 - positive.mean() + negative.mean()
    return gap.square() + positive.var(correction=0) + negative.var(correction=0)


def maker_of(name: str, losses: Mapping[str, Maker]) -> Maker:
    """Return what makes a loss from its parameters: one of `losses`, or `module.function` of the caller's own.

    Raises:
        ValueError: there is no such loss.
    """
    module, _, attribute = name.rpartition(".")
    found = losses.get(name)
    if found is None and module:
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except (ImportError, ValueError):  # a name such as "a..b" is no module's
            found = None
    if not callable(found):
        raise ValueError(
            f"loss must be a known one or module.function of your own that can be imported, got {name!r}. "
            f"Available: {list(losses)}"
        )
    return found


def with_defaults(name: str, maker: Maker, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return all parameters of a loss.

    Raises:
        TypeError: a parameter is missing or does not belong to the loss.
    """
    signature = inspect.signature(maker)
    try:
        bound = signature.bind(**parameters)
    except TypeError as error:
        wanted = list(signature.parameters)
        raise TypeError(
            f"parameters of {name} must be {wanted}, got {sorted(parameters)} in make_loss: {error}"
        ) from None
    bound.apply_defaults()
    return dict(bound.kwargs)


def _signed(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logit of the true class: z for positives, -z for negatives."""
    return logits * (2 * labels - 1)


def _of_class(labels: Tensor, negative: float, positive: float) -> Tensor:
    return negative + (positive - negative) * labels


def _counts(class_counts: tuple[int, int], name: str) -> tuple[int, int]:
    if len(class_counts) != 2 or min(class_counts) < 1:
        raise ValueError(
            f"class_counts must be (negatives, positives), both >= 1, got {class_counts!r} in {name}. "
            "Count the labels of the training set."
        )
    negatives, positives = class_counts
    return negatives, positives


def check_parameter(parameter: str, value: float, name: str, holds: bool, rule: str) -> None:
    """Raise ValueError unless a parameter of a loss is finite and keeps its rule."""
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{parameter} must be finite and {rule}, got {value!r} in {name}")
