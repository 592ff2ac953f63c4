"""The augmented Lagrangian of Eq. 8: a term to add to any loss, with one multiplier for each positive."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from prostate_alm.method.batch import (
    Batch,
    Constraint,
    Ids,
    NonFiniteLogitsError,
    base_weight,
    check_batch,
    check_finite,
    checked_and_joined,
    digest,
    plain,
    require_tensors,
    unique_ids,
    violation_per_sample,
)
from prostate_alm.method.diagnostics import Diagnostics, RunningSums

On = Literal["logit", "probability"]
Reduction = Literal["sum", "mean"]
Number = TypeVar("Number", float, Tensor)
_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "margin": ("finite and >= 0", lambda value: 0 <= value < math.inf),
    "mu": ("finite and > 0", lambda value: 0 < value < math.inf),
    "rho": ("finite and >= 1", lambda value: 1 <= value < math.inf),
    "multiplier_max": ("> 0, or None", lambda value: value > 0),
    "relaxation": ("finite and >= 0", lambda value: 0 <= value < math.inf),
    "mu_max": ("> 0, or None", lambda value: value > 0),
    "auc_tolerance": ("in [0, 1)", lambda value: 0 <= value < 1),
    "auc_patience": ("a whole number >= 1", lambda value: value >= 1 and value == int(value)),
}
_STATE = ("multipliers", "mu", "reference_auc", "falls", "step", "skipped")


class AugmentedLagrangian(nn.Module):
    """The constraint's part of Eq. 8, to be added to a base loss F(θ).

    With P positives and N negatives in the mini-batch and q_j of Eq. 7 (``constraint.ranking_violation``):

    - ``reduction="sum"``, the paper: μ Σ_j q_j² / (2 P N) + Σ_j λ_j q_j / (P N)
    - ``reduction="mean"``, scale-free in N, with r_j = q_j / N: μ Σ_j r_j² / (2 P) + Σ_j λ_j r_j / P. For batches with
      the same N, μ' = N μ makes it the sum with μ, in value, gradient and multipliers.

    A batch without positives or without negatives gives 0.

    With a bound Λ on λ (``multiplier_max``) and a relaxation p the term is the augmented Lagrangian

        max over 0 <= λ <= Λ of  λ r_j - p λ² / 2 - (λ - λ_j)² / (2 μ),

    which is Eq. 8 for p = 0 while λ_j + μ r_j <= Λ. A positive weighs the multiplier that the update will give it,
    (λ_j + μ r_j) / (1 + μ p), at most Λ; at rest it is r_j / p, so λ also falls. It is the multiplier of a constraint
    r_j <= s_j that is relaxed at the price of s_j² / (2 p), and of Λ for each unit from s_j = Λ p on.

    Call order of one iteration (Algorithm 1)::

        loss = base(logits, labels) + term(logits, labels, sample_ids)
        loss.backward(); optimizer.step()
        term.update_multipliers()          # λ_j += μ q_j, bounded and relaxed, q from before the step
        term.observe_validation(auc)       # after each validation: μ *= ρ when the AUC fell

    - Gradient accumulation: several forward passes, then one ``update_multipliers()``; a sample's last q counts.
    - A skipped optimizer step (a gradient that is not finite): call ``discard()`` instead.
    - A sample that appears several times in one forward pass (oversampling, padding) is one constraint: its rows share
      the weight of one row, and its q is their mean.
    - Nothing is recorded in eval mode or without gradients. Half precision is computed on in float32.
    - When torch.distributed is initialised, positives are compared with the negatives of all ranks and every rank
      returns the same value. Call the term on every rank in each step, with 0 rows where a rank has none, and give
      ``observe_validation`` the same AUC everywhere; λ and μ then stay the same on all ranks.

    The defaults are those recommended in docs/results/league.md; ``as_printed`` is the paper's form. The state, saved
    between two steps, is λ by sample id, μ and the counters; ``torch.load(weights_only=True)`` reads it.

    Args:
        sample_ids: unique ids of all samples that may be positive in training (more do no harm), strings or numbers.
        margin: δ, in the unit of the output named by ``on``, at least 0.
        mu: μ at the start, above 0.
        rho: ρ, the factor of μ, at least 1.
        on: what the margin separates: logits, or probabilities (then δ > 1 can never be met).
        reduction: violations of a batch summed or averaged over negatives.
        multiplier_max: Λ, upper bound of λ and of λ + μ r, above 0; None for none. Eq. 5 asks for a bounded sequence.
        relaxation: p, violation for a unit of λ, at least 0; 0 is the paper's hard constraint, whose λ never falls.
        mu_max: cap of μ, at least ``mu``; None for ``mu * rho**3``.
        auc_tolerance: a fall of the validation AUC counts when it is larger than this, in [0, 1).
        auc_patience: number of consecutive validations below the mark (by more than the tolerance) that raise μ,
            at least 1. The mark is the last AUC that was not a fall.

    Raises:
        ValueError: a parameter is out of range, or the ids are not unique.

    Reference:
        Sangalli et al., 2021, arXiv:2102.12894v1, Eq. 8 and Algorithm 1. Rockafellar, 1976, doi:10.1287/moor.1.2.97:
        a proximal step of the multipliers. Hounie et al., 2023, arXiv:2306.02426: constraints relaxed at a price.

    >>> term = AugmentedLagrangian(["p"], mu=0.2, relaxation=0.0)
    >>> logits, labels = torch.tensor([0.0, 0.5, -2.0]), torch.tensor([1, 0, 0])
    >>> term(logits, labels, ["p", "n1", "n2"])  # r = (1.5 + 0) / 2: 0.2 * 0.75**2 / (2 * 1)
    tensor(0.0563)
    >>> term.update_multipliers()
    >>> round(term.multipliers["p"], 6)
    0.15
    """

    def __init__(
        self,
        sample_ids: Ids,
        *,
        margin: float = 1.0,
        mu: float = 3.0,
        rho: float = 2.0,
        on: On = "logit",
        reduction: Reduction = "mean",
        multiplier_max: float | None = 3.0,
        relaxation: float = 0.1,
        mu_max: float | None = None,
        auc_tolerance: float = 0.05,
        auc_patience: int = 1,
    ) -> None:
        super().__init__()
        _check_member("on", on, get_args(On))
        _check_member("reduction", reduction, get_args(Reduction))
        _check_rules(margin=margin, mu=mu, rho=rho, multiplier_max=multiplier_max, mu_max=mu_max)
        _check_rules(relaxation=relaxation, auc_tolerance=auc_tolerance, auc_patience=auc_patience)
        if mu_max is not None and mu_max < mu:
            raise ValueError(f"mu_max must be at least mu, {mu!r}, got {mu_max!r} in AugmentedLagrangian")
        self._ids = unique_ids(sample_ids)
        self._id_of_digest: dict[int, str] = {}
        self.margin, self.rho, self.on, self.reduction = float(margin), float(rho), on, reduction
        self.multiplier_max = math.inf if multiplier_max is None else float(multiplier_max)
        self.relaxation = float(relaxation)
        self.mu_max = float(mu) * float(rho) ** 3 if mu_max is None else float(mu_max)
        self.auc_tolerance, self.auc_patience = float(auc_tolerance), int(auc_patience)
        self._mu = float(mu)
        self._multipliers: dict[str, float] = {}
        self._reference_auc: float | None = None
        self._falls = self._step = self._skipped = 0
        self._pending: dict[str, float] = {}
        self._record = RunningSums()

    @classmethod
    def as_printed(
        cls, sample_ids: Ids, *, margin: float = 1.0, mu: float = 0.2, rho: float = 3.0
    ) -> "AugmentedLagrangian":
        """Return the term as the paper prints it: sums over negatives, λ without bound or price, μ rises at any fall.

        Arguments and errors are those of the class; the paper tried δ of 1, 1.5, 2, μ of 0.2, 0.3 and ρ of 2, 3, 4.
        >>> AugmentedLagrangian.as_printed(["p"]).reduction
        'sum'
        """
        own: dict[str, Any] = {"reduction": "sum", "multiplier_max": None, "relaxation": 0.0, "auc_tolerance": 0.0}
        return cls(sample_ids, margin=margin, mu=mu, rho=rho, **own)

    @property
    def mu(self) -> float:
        """The penalty coefficient μ."""
        return self._mu

    @property
    def terms(self) -> dict[str, "AugmentedLagrangian"]:
        """The constraints by the ending of their figures' names: this one, without (`CriticalClasses` has several)."""
        return {"": self}

    @property
    def step(self) -> int:
        """Number of optimizer steps so far, skipped ones included."""
        return self._step

    @property
    def multipliers(self) -> Mapping[str, float]:
        """λ of each sample that has been a positive of an updated step; every other λ is 0."""
        return dict(self._multipliers)

    def forward(self, logits: Tensor, labels: Tensor, sample_ids: Ids) -> Tensor:
        """Return the term of Eq. 8 without F as a scalar, and remember q for ``update_multipliers``.

        Args:
            logits: (B,) or (B, 1), any floating type, finite.
            labels: (B,) or (B, 1), 0 or 1 in any type.
            sample_ids: B strings, or whole numbers; those of positives must have been given to the constructor.

        Returns:
            A scalar >= 0 in float32 (float64 for float64 logits); 0 without positives or without negatives.

        Raises:
            NonFiniteLogitsError: a logit is NaN or infinite; names the step and the samples.
            ValueError: a label, a shape or an id is wrong.
            TypeError: a type is wrong.
            RuntimeError: another rank refused its batch, or μ differs between ranks.
        """
        return self.of_batch(self.join(logits, labels, sample_ids))

    def update_multipliers(self) -> None:
        """Let λ_j follow q_j, from before the step, for the positives since the last update: with p = 0, λ_j += μ q_j.

        To be called once after each optimizer step that was taken.
        """
        for key, violation in self._pending.items():
            self._multipliers[key] = min(self._follow(self._multipliers.get(key, 0.0), violation), self.multiplier_max)
        self._pending.clear()
        self._step += 1

    def _follow(self, old: Number, violation: Number) -> Number:
        return (old + self._mu * violation) / (1 + self._mu * self.relaxation)

    def discard(self) -> None:
        """Forget the violations since the last update: the optimizer step was skipped, so λ stays as it is."""
        self._pending.clear()
        self._step += 1
        self._skipped += 1

    def observe_validation(self, auc: float) -> bool:
        """Apply the rule ``μ *= ρ`` when the validation AUC fell, up to the cap.

        Args:
            auc: AUC of the validation set, in [0, 1]; the same on all ranks.

        Returns:
            Whether μ rose; False at the cap and for the first validation.

        Raises:
            ValueError: the AUC is NaN or outside [0, 1].
        """
        if not 0.0 <= auc <= 1.0:
            raise ValueError(f"auc must be in [0, 1], got {auc!r} in observe_validation")
        fell = self._reference_auc is not None and auc < self._reference_auc - self.auc_tolerance
        self._falls = self._falls + 1 if fell else 0
        if fell and self._falls < self.auc_patience:
            return False
        self._reference_auc, self._falls = float(auc), 0
        before = self._mu
        if fell:
            self._mu = max(before, min(before * self.rho, self.mu_max))
        return self._mu > before

    def diagnostics(self) -> Diagnostics:
        """Return what happened in the steps since the last ``reset_diagnostics()``."""
        return self._record.summary(mu=self._mu, multipliers=self._multipliers.values())

    def reset_diagnostics(self) -> None:
        """Start the accumulation of the diagnostics anew, for instance at the start of an epoch."""
        self._record = RunningSums()

    def measure_gradients(self, *, base: Tensor, constraint: Tensor) -> None:
        """Let the backward pass report the gradients of F and of the constraint at two copies of the logits."""
        base.register_hook(self._record.add_base_gradient)  # type: ignore[no-untyped-call]  # torch gives it no types
        constraint.register_hook(self._record.add_constraint_gradient)  # type: ignore[no-untyped-call]  # torch gives it no types

    def get_extra_state(self) -> dict[str, Any]:
        """Return λ by sample id, μ and the counters; part of ``state_dict()``."""
        return {name: getattr(self, f"_{name}") for name in _STATE} | {"multipliers": dict(self._multipliers)}

    def set_extra_state(self, state: Any) -> None:
        """Take over a saved state; part of ``load_state_dict()``. Pending violations are forgotten.

        Raises:
            ValueError: the keys are not those of ``get_extra_state``, or a λ belongs to an unknown sample.
        """
        if not isinstance(state, Mapping) or set(state) != set(_STATE):
            raise ValueError(f"the state must have the keys {list(_STATE)}, got {state!r:.200} in load_state_dict")
        for key in state["multipliers"]:
            self._known(key)
        for name in _STATE:
            setattr(self, f"_{name}", state[name])
        self._multipliers = dict(state["multipliers"])
        self._pending.clear()

    def extra_repr(self) -> str:
        """Return the parameters."""
        names = ("margin", "mu", "rho", "on", "reduction", "multiplier_max", "relaxation", "mu_max")
        return f"{len(self._ids)} samples, " + ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def join(self, logits: Tensor, labels: Tensor, sample_ids: Ids) -> Batch:
        """Return the checked batch, of all ranks together; the first half of ``forward``, and its errors."""
        require_tensors(logits=logits, labels=labels)

        def check() -> Batch:
            batch = check_batch(logits, labels, sample_ids, step=self._step)
            self.require_known(str(key) for key, label in zip(batch.keys, batch.labels, strict=True) if label)
            return batch

        return checked_and_joined(check, mu=self._mu, device=logits.device)

    def require_known(self, sample_ids: Iterable[str]) -> None:
        """Raise ValueError unless each id was given to the constructor."""
        for key in sample_ids:
            self._known(key)

    def of_batch(self, *batches: Batch) -> Tensor:
        """Return the term for a checked batch; the second half of ``forward``.

        Of several with the same positives in the same order, q_j is the sum and N the number of all their negatives.
        """
        outputs = batches if self.on == "logit" else [one.probabilities() for one in batches]
        if not any(one.has_pairs for one in outputs):
            return reduce(add, (one.zero() for one in outputs))  # backward() reaches it, on every rank
        found = [violation_per_sample(one, margin=self.margin) for one in outputs if one.has_pairs]
        keys, violation, negatives = found[0][0], reduce(add, (q for _, q, _ in found)), sum(n for _, _, n in found)
        if self.reduction == "mean":
            violation, negatives = violation / negatives, 1
        ids = [self._known(key) for key in keys]
        self._remember(ids, violation)
        old = violation.new_tensor([self._multipliers.get(key, 0.0) for key in ids])
        new = self._follow(old, violation).clamp(max=self.multiplier_max)  # (P,) what the update will make of λ
        price = self.relaxation * new.square() / 2 + (new - old).square() / (2 * self._mu)
        per_positive = new * violation - price
        return per_positive.sum() / (len(ids) * negatives)

    def _known(self, key: str | int) -> str:
        if isinstance(key, int):
            if not self._id_of_digest:
                self._id_of_digest = {digest(own): own for own in self._ids}
            key = self._id_of_digest.get(key, f"digest {key}, the id of a positive on another rank")
        if key not in self._ids:
            raise ValueError(
                f"the id of a positive must be one of the {len(self._ids)} given to the constructor, got {key!r} "
                f"in AugmentedLagrangian. Available: {sorted(self._ids)[:3]}..."
            )
        return key

    def _remember(self, ids: list[str], violation: Tensor) -> None:
        if self.training and torch.is_grad_enabled():
            values = violation.detach().tolist()
            if not math.isfinite(sum(values)):
                raise NonFiniteLogitsError(
                    f"violations must be finite, got {max(values)} at step {self._step} in AugmentedLagrangian. "
                    "The logits are too large: lower the learning rate or mu."
                )
            self._pending.update(zip(ids, values, strict=True))
            self._record.add_violations(values)


class ConstrainedLoss(nn.Module):
    """A base loss plus the augmented Lagrangian term: the whole of Eq. 8 in one call.

    The gradients of both parts are measured at the logits in the backward pass; their ratio is read through
    ``term.diagnostics()``. On several ranks the base is weighted by the share of rows of its rank, so that uneven
    batches average as one batch does (exact for a base that is a mean over samples); a rank without rows adds 0.

    Args:
        base: F(θ), called as ``base(logits, labels)``, a mean over the batch (``losses.make_loss``).
        term: the constraint, an `AugmentedLagrangian` or `CriticalClasses`; None for the base alone.

    >>> ConstrainedLoss(nn.BCEWithLogitsLoss())(torch.tensor([0.0]), torch.tensor([1.0]), ["a"])
    tensor(0.6931)
    """

    def __init__(self, base: nn.Module, term: Constraint | None = None) -> None:
        super().__init__()
        self.base, self.term, self._calls = base, term, 0

    def forward(self, logits: Tensor, labels: Tensor, sample_ids: Ids) -> Tensor:
        """Return F + term as a scalar.

        Args:
            logits: (B,) or (B, 1), any floating type, finite; (B, K) of K classes.
            labels: (B,) or (B, 1), 0 or 1 in any type; 0..K-1 of K classes.
            sample_ids: B strings, or whole numbers.

        Raises:
            As the term.
        """
        logits = plain(logits)
        if self.term is None:
            self._calls += 1
            check_finite(logits, sample_ids, step=self._calls - 1)
            base = self._base(logits, labels) if len(logits) else logits.sum()
            return base * base_weight(len(logits), device=logits.device)
        to_base, to_term = logits.view_as(logits), logits.view_as(logits)
        if self.training and to_base.requires_grad:
            for term in self.term.terms.values():
                term.measure_gradients(base=to_base, constraint=to_term)
        batch = self.term.join(to_term, labels, sample_ids)
        base = self._base(to_base, labels) if len(logits) else to_base.sum()
        return base * batch.base_weight + self.term.of_batch(batch)

    def _base(self, logits: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = self.base(logits, labels)
        return value


def _check_member(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r} in AugmentedLagrangian")


def _check_rules(**values: float | None) -> None:
    for name, value in values.items():
        rule, holds = _RULES[name]
        if value is not None and not holds(value):
            raise ValueError(f"{name} must be {rule}, got {value!r} in AugmentedLagrangian")
