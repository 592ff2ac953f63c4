"""The base losses F(θ) of K classes: functions of logits (B, K) and class numbers, chosen by name, or one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prostate_alm.method.batch import class_numbers, plain
from prostate_alm.method.losses import Formula, check_parameter, maker_of, with_defaults

"""Logits (B, K), floating, and labels (B,), whole numbers, to the losses of the samples (B,), or to their mean."""


@dataclass(frozen=True)
class Weighted:
    """A formula whose samples weigh as their class does; the weights may be deferred (`ClassLoss.weighs`)."""

    formula: Formula
    weights: tuple[float, ...]


class ClassLoss(nn.Module):
    """F(θ) of one mini-batch of K classes; made by ``make_class_loss``.

    Args:
        name: the name given to ``make_class_loss``.
        classes: K.
        made: the formula, with weights of the classes or without.
        parameters: what it was made with, for ``print(loss)``.

    Attributes:
        weighs: whether the weights of the classes act. LDAM-DRW defers them: False at first, True in the last epochs.
    """

    def __init__(self, name: str, classes: int, made: Formula | Weighted, parameters: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.classes, self.weighs = name, classes, True
        self.parameters_of_name = parameters
        self._formula = made.formula if isinstance(made, Weighted) else made
        self._weights = made.weights if isinstance(made, Weighted) else None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss as a scalar.

        Args:
            logits: (B, K), B >= 1, any floating type; half precision is computed on in float32.
            labels: (B,) or (B, 1), 0..K-1 in any type.

        Returns:
            A scalar, float32 or float64.

        Raises:
            ValueError: the shapes differ from these, or a label is not a class.
        """
        wide = plain(logits) if logits.dtype == torch.float64 else plain(logits).float()
        flat = plain(labels).reshape(-1)
        if wide.ndim != 2 or wide.shape[1] != self.classes or len(flat) != len(wide) or not len(flat):
            raise ValueError(
                f"logits must have shape (B, {self.classes}) and labels (B,), B at least 1, got {tuple(logits.shape)} "
                f"and {tuple(labels.shape)} in {self.name}"
            )
        target = torch.tensor(class_numbers(flat, classes=self.classes, where=self.name), device=wide.device)
        losses = self._formula(wide, target)
        if self._weights is not None and self.weighs:
            losses = losses * wide.new_tensor(self._weights)[target]
        return losses.mean()

    def extra_repr(self) -> str:
        """Return name and parameters."""
        given = (f"{key}={value}" for key, value in self.parameters_of_name.items())
        return ", ".join([self.name, f"classes={self.classes}", *given])


def make_class_loss(name: str, *, classes: int, **parameters: Any) -> ClassLoss:
    """Return a base loss of K classes, called as ``loss(logits, labels)``, a mean over the batch.

    With z the logits, y the class of a sample, p = softmax(z), n_k the number of training samples of class k and
    π_k its share, each class's weight w_k scaled to Σ_k w_k = K:

    =======  ==========================================================  ======================================
    name     one sample's loss                                           parameters (default), range
    =======  ==========================================================  ======================================
    ce       -log p_y
    w_ce     -w_y log p_y, w_k ∝ n_k^(-power)                            power (1) >= 0; class_counts
    cb_ce    -w_y log p_y, w_k ∝ (1 - β) / (1 - β^n_k)                   beta (0.9999) in [0, 1); class_counts
    focal    -(1 - p_y)^γ log p_y                                        gamma (2) >= 0
    ldam     -w_y log softmax(S (z - Δ))_y, Δ_y ∝ n_y^(-1/4) for the     max_margin (0.5) >= 0, scale S (1) > 0,
             sample's class and 0 for others, largest as given; w as     beta (0.9999) in [0, 1); class_counts
             cb_ce, meant to be deferred
    la       -log softmax(z + τ log π)_y: the logits alone are those     tau (1) >= 0; class_counts
             of classes that are equally frequent
    =======  ==========================================================  ======================================

    ``class_counts`` are (n_0, ..., n_K-1) of the training set, each at least 1; they have no default.

    Args:
        name: one of the names above, or `module.function` of a function of your own, which takes its parameters by name
            and returns the formula: logits (B, K) and labels (B,) to losses (B,) or their mean.
        classes: K, at least 2.
        **parameters: those of the table, or of your function.

    Raises:
        ValueError: the name is unknown or a parameter is out of its range.
        TypeError: a parameter is missing or does not belong to the name.

    Reference:
        cb_ce: Cui et al. 2019, arXiv:1901.05555, class-balanced softmax cross-entropy. focal: Lin et al. 2017,
        arXiv:1708.02002. ldam: Cao et al. 2019, arXiv:1906.07413, Eq. 12, 13 and Algorithm 1 (deferred re-weighting).
        la: Menon et al. 2021, arXiv:2007.07314, Eq. 10.

    >>> loss = make_class_loss("la", classes=3, class_counts=(90, 9, 1))
    >>> round(loss(torch.zeros(1, 3), torch.tensor([2])).item(), 4)  # -log 0.01
    4.6052
    """
    maker = maker_of(name, CLASS_LOSSES)
    whole = with_defaults(name, maker, parameters)
    counts = whole.get("class_counts")
    if counts is not None and (len(counts) != classes or min(counts) < 1):
        raise ValueError(
            f"class_counts must be one number >= 1 for each of {classes} classes, got {counts!r} in {name}. "
            "Count the labels of the training set."
        )
    return ClassLoss(name, classes, maker(**whole), whole)


def _ce() -> Formula:
    return _cross_entropies


def _w_ce(*, class_counts: Sequence[int], power: float = 1.0) -> Weighted:
    check_parameter("power", power, "w_ce", power >= 0, ">= 0")
    return Weighted(_cross_entropies, _scaled([count**-power for count in class_counts]))


def _cb_ce(*, class_counts: Sequence[int], beta: float = 0.9999) -> Weighted:
    return Weighted(_cross_entropies, _effective(class_counts, beta, "cb_ce"))


def _focal(*, gamma: float = 2.0) -> Formula:
    check_parameter("gamma", gamma, "focal", gamma >= 0, ">= 0")
    return partial(_focal_losses, gamma=gamma)


def _ldam(
    *, class_counts: Sequence[int], max_margin: float = 0.5, scale: float = 1.0, beta: float = 0.9999
) -> Weighted:
    check_parameter("max_margin", max_margin, "ldam", max_margin >= 0, ">= 0")
    check_parameter("scale", scale, "ldam", scale > 0, "> 0")
    margins = tuple(max_margin * (min(class_counts) / count) ** 0.25 for count in class_counts)
    return Weighted(partial(_margin_losses, margins=margins, scale=scale), _effective(class_counts, beta, "ldam"))


def _la(*, class_counts: Sequence[int], tau: float = 1.0) -> Formula:
    check_parameter("tau", tau, "la", tau >= 0, ">= 0")
    total = sum(class_counts)
    return partial(_adjusted_losses, shares=tuple(count / total for count in class_counts), tau=tau)


CLASS_LOSSES: dict[str, Callable[..., Formula | Weighted]] = {
    "ce": _ce,
    "w_ce": _w_ce,
    "cb_ce": _cb_ce,
    "focal": _focal,
    "ldam": _ldam,
    "la": _la,
}
"""The one place where a loss of several classes has its name; settings read it."""


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, reduction="none")


def _focal_losses(logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    own = logits.gather(1, labels[:, None])
    others = logits.masked_fill(torch.nn.functional.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
    # log(1 - p_y) = log Σ_{k != y} p_k, with a finite gradient also where p_y is 1
    log_missed = torch.logsumexp(others, 1) - torch.logsumexp(logits, 1)
    log_hit = own.flatten() - torch.logsumexp(logits, 1)
    return -torch.exp(gamma * log_missed) * log_hit


def _margin_losses(logits: Tensor, labels: Tensor, *, margins: tuple[float, ...], scale: float) -> Tensor:
    own = torch.nn.functional.one_hot(labels, logits.shape[1]) * logits.new_tensor(margins)
    return _cross_entropies(scale * (logits - own), labels)


def _adjusted_losses(logits: Tensor, labels: Tensor, *, shares: tuple[float, ...], tau: float) -> Tensor:
    return _cross_entropies(logits + tau * logits.new_tensor(shares).log(), labels)


def _effective(class_counts: Sequence[int], beta: float, name: str) -> tuple[float, ...]:
    check_parameter("beta", beta, name, 0 <= beta < 1, "in [0, 1)")
    return _scaled([(1 - beta) / (1 - beta**count) for count in class_counts])


def _scaled(weights: Sequence[float]) -> tuple[float, ...]:
    return tuple(len(weights) * weight / sum(weights) for weight in weights)
