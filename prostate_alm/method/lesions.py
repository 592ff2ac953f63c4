"""The constraint on voxels: every lesion outranks every background voxel by a margin; one multiplier a lesion."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prostate_alm.method.batch import Batch, Ids, check_finite, is_distributed, names_of, plain, require_tensors
from prostate_alm.method.lagrangian import AugmentedLagrangian

TEMPERATURE_LOGIT = 0.5
"""T of the soft maxima, where nobody says otherwise."""


def lesion_id(study_id: str, number: int) -> str:
    """Return the name by which the multiplier of a lesion is known.

    Args:
        study_id: of the manifest.
        number: of the lesion in its study, from 1.

    >>> lesion_id("PHANTOM-0001", 1)
    'PHANTOM-0001/lesion-1'
    """
    return f"{study_id}/lesion-{number}"


def lesion_scores(logits: Tensor, lesions: Tensor, *, temperature: float) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return the soft maximum of the logits of each lesion's voxels.

    s_j = T log(1 / n_j Σ_i exp(z_i / T)) over the n_j voxels of lesion j, so that max z - T log n_j <= s_j <= max z.

    Args:
        logits: z, (B, 1, X, Y, Z), floating.
        lesions: same shape, integer: k >= 1 in lesion k of its study; others have no part in it.
        temperature: T > 0, in logits. T -> 0 is the maximum, T -> ∞ the mean.

    Returns:
        s (M,) in the type of the logits, and for each lesion (row of the batch, k), in ascending order. M may be 0.

    Reference:
        The log-mean-exp pooling of Pinheiro and Collobert, 2015, arXiv:1411.6228, Eq. 6.

    >>> maps, lesions = torch.tensor([1.0, 1.0, 5.0]).view(1, 1, 3, 1, 1), torch.tensor([1, 1, 0]).view(1, 1, 3, 1, 1)
    >>> lesion_scores(maps, lesions, temperature=0.5)  # a lesion of equal voxels scores as they do
    (tensor([1.]), [(0, 1)])
    """
    inside = lesions > 0
    number = lesions[inside].long()
    row = torch.arange(len(lesions), device=lesions.device).view(-1, 1, 1, 1, 1).expand_as(lesions)[inside]
    of_row = int(number.max()) + 1 if len(number) else 1
    codes, member, count = torch.unique(row * of_row + number, return_inverse=True, return_counts=True)
    scaled = torch.masked_select(logits, inside) / temperature  # its backward pass is faster than that of an index
    top = scaled.detach().new_full((len(codes),), -math.inf).scatter_reduce(0, member, scaled.detach(), "amax")
    total = scaled.new_zeros(len(codes)).index_add(0, member, (scaled - top[member]).exp())
    scores = temperature * (top + (total / count).log())
    return scores, [divmod(code, of_row) for code in codes.tolist()]


def case_logits(logits: Tensor, *, temperature: float = TEMPERATURE_LOGIT) -> Tensor:
    """Return the logit of each case from its map: s = T log Σ_i exp(z_i / T) over all voxels.

    max z <= s <= max z + T log V for V voxels; a small lesion in a large volume counts as much as in a small one.

    Args:
        logits: z, (B, 1, X, Y, Z).
        temperature: T > 0, in logits.

    Returns:
        (B, 1), in the type of the logits.

    >>> case_logits(torch.tensor([-9.0, 2.0]).view(1, 1, 2, 1, 1))
    tensor([[2.]])
    """
    return temperature * torch.logsumexp(logits.flatten(2) / temperature, dim=2)


def background(lesions: Tensor, *, rim_voxels: int) -> Tensor:
    """Say which voxels are background: in no lesion, cut ones included, nor within `rim_voxels` of one.

    Args:
        lesions: (B, 1, X, Y, Z), integer; 0 outside of lesions.
        rim_voxels: distance along the axes and diagonals, at least 0.

    Returns:
        (B, 1, X, Y, Z), bool.

    >>> background(torch.tensor([0, 0, 1, -1, 0]).view(1, 1, 5, 1, 1), rim_voxels=1).flatten().tolist()
    [True, False, False, False, False]
    """
    covered = lesions != 0
    for _, axis in itertools.product(range(rim_voxels), (2, 3, 4)):
        covered = _grown(covered, axis)
    return ~covered


def _grown(covered: Tensor, axis: int) -> Tensor:
    """Return a mask that reaches one voxel further to both sides along an axis."""
    rest, grown = covered.shape[axis] - 1, covered.clone()
    grown.narrow(axis, 1, rest).logical_or_(covered.narrow(axis, 0, rest))
    grown.narrow(axis, 0, rest).logical_or_(covered.narrow(axis, 1, rest))
    return grown


def lesion_batch(
    logits: Tensor, lesions: Tensor, study_ids: Ids, *, temperature: float, rim_voxels: int, step: int = 0
) -> Batch:
    """Return the scores that the constraint compares: those of the lesions by id, and the background voxels.

    Args:
        logits: (B, 1, X, Y, Z), floating, finite; half precision is computed on in float32.
        lesions: same shape, integer: 0 background, k >= 1 the k-th lesion of its study, -1 neither.
        study_ids: of the B studies.
        temperature: T of `lesion_scores`, in logits.
        rim_voxels: of `background`.
        step: number of optimizer steps so far, for the message only.

    Raises:
        NonFiniteLogitsError: names the step and the studies.
        ValueError: a shape or a label is wrong.
        TypeError: no tensor, logits that are not floating, or lesions that are not whole numbers.

    >>> maps, lesions = torch.tensor([2.0, 0.0, -1.0]).view(1, 1, 3, 1, 1), torch.tensor([2, 0, -1]).view(1, 1, 3, 1, 1)
    >>> batch = lesion_batch(maps, lesions, ["a"], temperature=0.5, rim_voxels=0)
    >>> batch.keys, batch.logits, batch.unnamed
    (['a/lesion-2'], tensor([2.]), tensor([0.]))
    """
    require_tensors(logits=logits, lesions=lesions)
    names = names_of(study_ids, where="a batch")
    _check_maps(logits, lesions, studies=len(names))
    wide = plain(logits) if logits.dtype == torch.float64 else plain(logits).float()
    check_finite(wide, names, step=step)
    numbers = plain(lesions)
    scores, found = lesion_scores(wide, numbers, temperature=temperature)
    keys = [lesion_id(names[row], number) for row, number in found]
    outside = torch.masked_select(wide, background(numbers, rim_voxels=rim_voxels))
    return Batch(scores, [1] * len(keys), keys, unnamed=outside)


class LesionConstraint(nn.Module):
    """The constraint of Eq. 7 and 8 for maps: a positive is a lesion, the negatives are background voxels.

    With s_j the soft maximum of lesion j (`lesion_scores`) and z_k the background voxels of all cases of the batch,

        q_j = Σ_k max(0, δ - (s_j - z_k))

    and the rest is that of `AugmentedLagrangian`, which holds one multiplier for each lesion by `lesion_id`. Cases
    without lesions only give negatives; lesions that the crop cut (-1) are neither, and so are voxels next to a lesion:
    they belong to its partial volume, and no reader would call them a second finding. Where q_j = 0 the largest
    voxel of lesion j lies at least δ above all background: s_j is at most that voxel.

    It stands in the place of an `AugmentedLagrangian` in a `ConstrainedLoss`, with maps for logits, lesions for labels
    and study ids for sample ids; one process at a time.

    Args:
        lesion_ids: of all lesions of the training studies (more do no harm), unique.
        temperature: T of the soft maximum, above 0, in logits.
        rim_voxels: how far from a lesion voxels are neither, at least 0.
        **parameters: see `AugmentedLagrangian`.

    Attributes:
        term: the constraint, with λ, μ and diagnostics.

    Raises:
        ValueError: a parameter is out of range.

    >>> constraint = LesionConstraint(["a/lesion-1"], mu=1.0, relaxation=0.0, rim_voxels=0)
    >>> maps, lesions = torch.tensor([0.0, 0.5, -2.0]).view(1, 1, 3, 1, 1), torch.tensor([1, 0, 0]).view(1, 1, 3, 1, 1)
    >>> constraint(maps, lesions, ["a"])  # r = (1.5 + 0) / 2: 0.75**2 / 2
    tensor(0.2812)
    """

    def __init__(
        self,
        lesion_ids: Ids,
        *,
        temperature: float = TEMPERATURE_LOGIT,
        rim_voxels: int = 1,
        **parameters: Any,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be finite and > 0, got {temperature!r} in LesionConstraint")
        if rim_voxels < 0 or rim_voxels != int(rim_voxels):
            raise ValueError(f"rim_voxels must be a whole number >= 0, got {rim_voxels!r} in LesionConstraint")
        self.temperature, self.rim_voxels = float(temperature), int(rim_voxels)
        self.term = AugmentedLagrangian(lesion_ids, **parameters)

    @property
    def terms(self) -> Mapping[str, AugmentedLagrangian]:
        """The constraint by the ending of its figures' names: none."""
        return self.term.terms

    def forward(self, logits: Tensor, lesions: Tensor, study_ids: Ids) -> Tensor:
        """Return the term as a scalar, and remember q for ``update_multipliers``.

        Args:
            logits: (B, 1, X, Y, Z), any floating type, finite.
            lesions: same shape, integer: 0 background, k >= 1 the k-th lesion of its study, -1 neither.
            study_ids: of the B studies.

        Returns:
            A scalar >= 0 in float32 (float64 for float64 logits); 0 without lesions or without background.

        Raises:
            As `lesion_batch` and `AugmentedLagrangian.forward`.
        """
        return self.of_batch(self.join(logits, lesions, study_ids))

    def join(self, logits: Tensor, labels: Tensor, sample_ids: Ids) -> Batch:
        """Return the checked scores; the first half of ``forward``, and its errors."""
        if is_distributed():
            raise RuntimeError("maps must be trained by one process, got several in LesionConstraint. Start one alone.")
        batch = lesion_batch(
            logits,
            labels,
            sample_ids,
            temperature=self.temperature,
            rim_voxels=self.rim_voxels,
            step=self.term.step,
        )
        self.term.require_known(str(key) for key in batch.keys)
        return batch

    def of_batch(self, batch: Batch) -> Tensor:
        """Return the term for checked scores; the second half of ``forward``."""
        return self.term.of_batch(batch)

    def update_multipliers(self) -> None:
        """Raise λ of the lesions of the batch, after an optimizer step that was taken."""
        self.term.update_multipliers()

    def discard(self) -> None:
        """Forget the violations since the last update: the optimizer step was skipped."""
        self.term.discard()

    def extra_repr(self) -> str:
        """Return the parameters, for ``print(constraint)``."""
        return f"temperature={self.temperature}, rim_voxels={self.rim_voxels}"


def _check_maps(logits: Tensor, lesions: Tensor, *, studies: int) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be of a floating type, got {logits.dtype} in a batch of maps")
    if lesions.is_floating_point() or lesions.is_complex():
        raise TypeError(f"lesions must be of an integer type, got {lesions.dtype} in a batch of maps. Use .long().")
    if logits.ndim != 5 or logits.shape[:2] != (studies, 1) or lesions.shape != logits.shape:
        raise ValueError(
            f"logits and lesions must have shape ({studies}, 1, X, Y, Z), one map for each of the study_ids, "
            f"got {tuple(logits.shape)} and {tuple(lesions.shape)} in a batch of maps"
        )
    if lesions.numel() and int(lesions.min()) < -1:
        raise ValueError(f"lesions must be -1, 0 or a number from 1, got {int(lesions.min())} in a batch of maps")


def lesion_auc(scores: Sequence[float], negative: Tensor) -> float:
    """Return the mean over lesions of the share of background voxels that a lesion outranks, ties half.

    Args:
        scores: s_j of M lesions, M at least 1.
        negative: background voxels, (N,), N at least 1, of any order.

    >>> lesion_auc([0.5, 2.0], torch.tensor([0.0, 1.0]))
    0.75
    """
    ordered = negative.double().sort().values
    wanted = torch.tensor(scores, dtype=torch.float64, device=negative.device)
    below, below_or_equal = (torch.searchsorted(ordered, wanted, right=right).double() for right in (False, True))
    return float((below + below_or_equal).mean()) / (2 * len(ordered))
