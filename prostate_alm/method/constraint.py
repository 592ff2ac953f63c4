"""The ranking constraint of Eq. 7: by how much do negatives come too close to each positive?"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

Per = Literal["positive", "negative", "pair"]

# Below this number of pairs the broadcast form is faster than sorting (benchmarks/ranking_violation.py).
_PAIRWISE_LIMIT = 10_000


def ranking_violation(positive: Tensor, negative: Tensor, *, margin: float, per: Per = "positive") -> Tensor:
    """Return the violation of "every positive outranks every negative by the margin".

    With δ the margin, f_j the scores of the positives and g_k those of the negatives:

    - ``per="positive"``, Eq. 7: q_j = Σ_k max(0, δ - (f_j - g_k)), shape (P,)
    - ``per="negative"``, the mirror image: q_k = Σ_j max(0, δ - (f_j - g_k)), shape (N,)
    - ``per="pair"``: v_jk = max(0, δ - (f_j - g_k)), shape (P, N), O(P N) memory

    The first two cost O((P+N) log(P+N)) time and O(P+N) memory, and sum in float64. The gradient is exact;
    at a kink (a pair that meets the margin exactly) it is 0, as that of relu.

    Args:
        positive: scores of the positives, (P,), any floating type, unit of the network's output. P may be 0.
        negative: scores of the negatives, (N,), same type and device. N may be 0.
        margin: δ, in the unit of the scores, at least 0.
        per: what a constraint belongs to.

    Returns:
        q >= 0 in the type of the scores. An empty sum is 0: no negatives give zeros of shape (P,). float16 holds
        at most 65504; convert scores first where sums may be larger.

    Raises:
        ValueError: a score is NaN or infinite, the shapes are not 1-D, ``margin`` or ``per`` is out of range.
        TypeError: the scores are not floating, or the two types differ.

    Reference:
        Sangalli et al., Constrained Optimization for Training Deep Neural Networks Under Class Imbalance (v1),
        2021, arXiv:2102.12894, Eq. 7.

    >>> positive, negative = torch.tensor([2.0, 0.5]), torch.tensor([0.0, 1.0])
    >>> ranking_violation(positive, negative, margin=1.0)
    tensor([0., 2.])
    >>> ranking_violation(positive, negative, margin=1.0, per="negative")
    tensor([0.5000, 1.5000])
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be finite and >= 0, got {margin!r} in ranking_violation")
    _check_scores(positive, negative)
    if per == "positive":
        return violation_per_positive(positive, negative, margin=margin)
    if per == "negative":  # δ - (f - g) = δ - ((-g) - (-f)): the classes swap roles under negation
        return violation_per_positive(-negative, -positive, margin=margin)
    if per == "pair":
        return _pairs(positive, negative, margin).to(positive.dtype)
    raise ValueError(f"per must be one of ['positive', 'negative', 'pair'], got {per!r} in ranking_violation")


def violation_per_positive(
    positive: Tensor, negative: Tensor, *, margin: float, weight: Tensor | None = None
) -> Tensor:
    """Return q_j = Σ_k w_k max(0, δ - (f_j - g_k)) of scores that are known to be finite.

    Args:
        positive: f, (P,), floating.
        negative: g, (N,), same type.
        margin: δ >= 0, in the unit of the scores.
        weight: w, (N,), at least 0; None means 1.

    Returns:
        (P,), in the type of the scores.

    >>> score = torch.tensor([0.0, 0.0])
    >>> violation_per_positive(score[:1], score, margin=1.0, weight=torch.tensor([0.5, 0.5]))
    tensor([1.])
    """
    if positive.numel() * negative.numel() <= _PAIRWISE_LIMIT:
        pairs = _pairs(positive, negative, margin)
        pairs = pairs if weight is None else pairs * weight
        return pairs.sum(1, dtype=torch.float64).to(positive.dtype)
    violation: Tensor = _SortedViolation.apply(positive, negative, margin, weight)  # type: ignore[no-untyped-call]  # torch gives it no types
    return violation


def all_finite(scores: Tensor) -> bool:
    """Say whether no score is NaN or infinite; one reduction where all is well."""
    # A finite sum has finite terms only; an infinite one may still be an overflow of finite terms.
    return math.isfinite(scores.detach().sum().item()) or bool(torch.isfinite(scores).all())


def _pairs(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    if positive.dtype in (torch.float16, torch.bfloat16):
        positive, negative = positive.float(), negative.float()
    # The difference first: it is exact for close scores, whatever their common offset.
    return torch.relu(negative - positive.unsqueeze(1) + margin)  # (P, N)


class _SortedViolation(torch.autograd.Function):
    """Count downwards from the top negative: reach u_j = top + δ - f_j, depth v_k = top - g_k >= 0.

    A pair is violated by max(0, u_j - v_k). With the reaches sorted, negative k violates all but the first b_k of
    them, so that sums over its violators are running sums over buckets.
    """

    @staticmethod
    def forward(ctx: Any, positive: Tensor, negative: Tensor, margin: float, weight: Tensor | None) -> Tensor:
        top = negative.max().double().reshape(1)  # one element, not a scalar, so that differences become float64
        reach, order = (top - positive + margin).sort()  # (P,)
        depth = top - negative  # (N,)
        bucket = torch.searchsorted(reach, depth, right=True, out_int32=True)  # (N,) b_k, from 0 to P
        size = len(reach) + 1
        if weight is None:
            count = torch.bincount(bucket, minlength=size)
        else:
            count = depth.new_zeros(size).index_add_(0, bucket, weight.double())
            depth *= weight
        total = depth.new_zeros(size).index_add_(0, bucket, depth)
        below = count[:-1].cumsum(0).double()  # (P,) weight of the negatives that violate reach i
        violation = (below * reach - total[:-1].cumsum(0)).clamp_min_(0)
        ctx.save_for_backward(order, bucket, _unsort(below, order), weight)
        return _unsort(violation, order).to(positive.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        order, bucket, count, weight = ctx.saved_tensors
        sorted_gradient = gradient.double().index_select(0, order)
        farther = sorted_gradient.flip(0).cumsum(0).flip(0)  # (P,) sum over this reach and all longer ones
        per_bucket = torch.cat([farther, farther.new_zeros(1)]).to(gradient.dtype)
        to_negative = per_bucket.index_select(0, bucket)
        if weight is not None:
            to_negative = (to_negative * weight).to(gradient.dtype)
        return (-count * gradient).to(gradient.dtype), to_negative, None, None


def _unsort(ordered: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(ordered).scatter_(0, order, ordered)


def _check_scores(positive: Tensor, negative: Tensor) -> None:
    for name, scores in (("positive", positive), ("negative", negative)):
        if scores.ndim != 1:
            raise ValueError(f"{name} must be 1-D, got shape {tuple(scores.shape)} in ranking_violation")
        if not scores.is_floating_point():
            raise TypeError(f"{name} must be of a floating type, got {scores.dtype} in ranking_violation")
        if not all_finite(scores):
            where = int((~torch.isfinite(scores)).nonzero()[0])
            raise ValueError(f"{name} must be finite, got {scores[where].item()} at index {where} in ranking_violation")
    if positive.dtype != negative.dtype:
        raise TypeError(
            f"negative must be of the type of positive, {positive.dtype}, got {negative.dtype} "
            "in ranking_violation. Convert one of them."
        )
