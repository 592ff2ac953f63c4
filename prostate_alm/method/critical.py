"""One or several critical classes among K: for each a constraint of its own, on a score made of the K logits."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from prostate_alm.method.batch import Batch, Ids, check_class_batch, checked_and_joined, require_tensors
from prostate_alm.method.class_metrics import require_critical, rivals_of, suffix_of
from prostate_alm.method.lagrangian import AugmentedLagrangian

Against = Literal["rest", "each"]


class CriticalClasses(nn.Module):
    """The constraint of Eq. 7 and 8 for critical classes among K, to be added to any loss of K logits.

    With z the logits, c a critical class and R its rivals, what must lie a margin above the rivals' samples is

    - ``against="rest"``: s = z_c - log Σ_{k in R} exp z_k, the log-odds of c against its rivals
    - ``against="each"``: s_k = z_c - z_k against the samples of each rival k, violations summed over k

    The rivals of c are all other classes; where the critical classes have an order of gravity, those that are less
    grave, and the samples of graver ones have no part in the constraint of c. Each critical class has its own
    `AugmentedLagrangian`, with its own multipliers, margin, μ and schedule; the term is their sum. For K = 2 and logits
    (0, f) it is that of f. Cost: that of a binary term for each critical class, K - 1 times that for "each".

    Args:
        sample_ids: ids of all samples that may be of a critical class (more do no harm), unique.
        critical: numbers of the critical classes, the gravest first where `ordered`; or a mapping from each to
            parameters of its own constraint.
        classes: K, at least 2.
        ordered: whether the order of `critical` is one of gravity.
        against: which score is ranked.
        **parameters: of every constraint, see `AugmentedLagrangian`.

    Attributes:
        critical: as given.
        rivals: of each critical class.

    Raises:
        ValueError: a critical class is unknown or there twice, there is none, or no class is left.

    >>> term = CriticalClasses(["a"], [2], classes=3, mu=1.0)
    >>> logits = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    >>> term(logits, torch.tensor([2, 0]), ["a", "b"])  # s = 1 - log 2 and -log(1 + e): a margin of 1 is kept
    tensor(0.)
    """

    def __init__(
        self,
        sample_ids: Ids,
        critical: Sequence[int] | Mapping[int, Mapping[str, Any]],
        *,
        classes: int,
        ordered: bool = False,
        against: Against = "rest",
        **parameters: Any,
    ) -> None:
        super().__init__()
        self.critical, self.classes = require_critical(critical, classes=classes), classes
        if against not in get_args(Against):
            raise ValueError(f"against must be one of {list(get_args(Against))}, got {against!r} in CriticalClasses")
        self.against, self.ordered = against, ordered
        self.rivals = rivals_of(self.critical, classes=classes, ordered=ordered)
        own = dict(critical) if isinstance(critical, Mapping) else {}
        self._terms = {c: AugmentedLagrangian(sample_ids, **parameters | dict(own.get(c, {}))) for c in self.critical}
        self.of_class = nn.ModuleDict({str(c): term for c, term in self._terms.items()})

    @property
    def terms(self) -> dict[str, AugmentedLagrangian]:
        """The constraints by the ending of their figures' names: none for a single critical class, else `_class3`."""
        return {suffix_of(c, self.critical): term for c, term in self._terms.items()}

    def forward(self, logits: Tensor, labels: Tensor, sample_ids: Ids) -> Tensor:
        """Return the sum of the terms of the critical classes, and remember q for ``update_multipliers``.

        Args:
            logits: (B, K), any floating type, finite.
            labels: (B,) or (B, 1), 0..K-1 in any type.
            sample_ids: B strings, or whole numbers; those of critical classes must have been given to the constructor.

        Returns:
            A scalar >= 0 in float32 (float64 for float64 logits).

        Raises:
            As `AugmentedLagrangian.forward`.
        """
        return self.of_batch(self.join(logits, labels, sample_ids))

    def join(self, logits: Tensor, labels: Tensor, sample_ids: Ids) -> Batch:
        """Return the checked batch, of all ranks together; the first half of ``forward``, and its errors."""
        require_tensors(logits=logits, labels=labels)
        first = next(iter(self.terms.values()))

        def check() -> Batch:
            batch = check_class_batch(logits, labels, sample_ids, classes=self.classes, step=first.step)
            rows = zip(batch.keys, batch.labels, strict=True)
            first.require_known(str(key) for key, label in rows if label in self.critical)
            return batch

        mu = sum(term.mu for term in self.terms.values())  # one number that differs where any of them does
        return checked_and_joined(check, mu=mu, device=logits.device)

    def of_batch(self, batch: Batch) -> Tensor:
        """Return the term for a checked batch; the second half of ``forward``."""
        found = [
            term.of_batch(*comparisons(batch, c, rivals=self.rivals[c], against=self.against))
            for c, term in self._terms.items()
        ]
        return torch.stack(found).sum() if len(found) > 1 else found[0]

    def update_multipliers(self) -> None:
        """Raise the multipliers of each critical class, after an optimizer step that was taken."""
        for term in self.terms.values():
            term.update_multipliers()

    def discard(self) -> None:
        """Forget the violations since the last update: the optimizer step was skipped."""
        for term in self.terms.values():
            term.discard()

    def extra_repr(self) -> str:
        """Return the parameters, for ``print(term)``."""
        return f"critical={list(self.critical)} of {self.classes}, ordered={self.ordered}, against={self.against!r}"


def comparisons(batch: Batch, critical: int, *, rivals: Sequence[int], against: Against) -> list[Batch]:
    """Return the binary batches that a critical class is ranked in: one, or one for each rival.

    Args:
        batch: logits (B, K) and class numbers.
        critical: c, label 1 in what is returned.
        rivals: classes with label 0; rows of others are left out.
        against: which score.

    >>> batch = Batch(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), [1, 0], ["a", "b"])
    >>> comparisons(batch, 1, rivals=[0], against="rest")[0].logits
    tensor([ 3., -1.])
    """
    groups = [rivals] if against == "rest" else [[rival] for rival in rivals]
    return [_comparison(batch, critical, group) for group in groups]


def _comparison(batch: Batch, critical: int, rivals: Sequence[int]) -> Batch:
    scores = log_odds(batch.logits, critical, rivals=rivals)
    wanted = {critical, *rivals}
    rows = [row for row, label in enumerate(batch.labels) if label in wanted]
    if len(rows) < len(batch.labels):
        scores = scores[torch.tensor(rows, dtype=torch.long, device=scores.device)]
    labels = [int(batch.labels[row] == critical) for row in rows]
    return Batch(scores, labels, [batch.keys[row] for row in rows], batch.base_weight)


def log_odds(logits: Tensor, critical: int, *, rivals: Sequence[int]) -> Tensor:
    """Return z_c - log Σ_{k in rivals} exp z_k; its sigmoid is the softmax probability of c among c and its rivals.

    Args:
        logits: (B, K).
        critical: c.
        rivals: numbers of other classes, at least one.

    Returns:
        (B,), in the type of the logits.

    >>> log_odds(torch.tensor([[0.0, 0.0, 2.0]]), 2, rivals=[0]).item()
    2.0
    """
    return logits[:, critical] - torch.logsumexp(logits[:, list(rivals)], dim=1)
