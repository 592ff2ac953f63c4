"""The base losses F(θ) of maps, those of MONAI, chosen by name, or one's own; voxels that are neither do not count."""

from collections.abc import Callable
from functools import partial
from typing import Any

from monai.losses import DiceCELoss, FocalLoss, TverskyLoss
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from prostate_alm.method.batch import plain
from prostate_alm.method.losses import BaseLoss, Formula, Maker, check_parameter, maker_of, with_defaults


class MapLoss(nn.Module):
    """F(θ) of the maps of one mini-batch; made by ``make_map_loss``.

    Args:
        base: of the voxels that are lesion (1) or background (0).
    """

    def __init__(self, base: BaseLoss) -> None:
        super().__init__()
        self.base = base

    def forward(self, logits: Tensor, lesions: Tensor) -> Tensor:
        """Return the loss as a scalar; 0 where no voxel is left.

        Args:
            logits: (B, 1, X, Y, Z), any floating type.
            lesions: same shape, integer: 0 background, k >= 1 the k-th lesion, -1 neither.
        """
        known = plain(lesions) >= 0
        voxels = plain(logits).masked_select(known)  # (n,)
        if not len(voxels):
            return plain(logits).float().sum() * 0.0
        loss: Tensor = self.base(voxels, plain(lesions)[known] > 0)
        return loss


def make_map_loss(name: str, **parameters: Any) -> MapLoss:
    """Return a base loss of maps, called as ``loss(logits, lesions)``.

    Over the n voxels of all cases of the batch that are lesion (y = 1) or background (y = 0), with p the sigmoid of the
    logit, p_y that of the voxel's class, and sums over voxels:

    ========  ====================================================  =============================================
    name      loss                                                  parameters (default), range
    ========  ====================================================  =============================================
    bce       mean of -log p_y
    focal     mean of -(1 - p_y)^γ log p_y                          gamma (2) >= 0
    dice_bce  1 - 2 Σ p y / (Σ p + Σ y) + mean of -log p_y
    tversky   1 - Σ p y / (Σ p y + α Σ p (1-y) + β Σ (1-p) y)       alpha (0.3) >= 0 of false positives,
                                                                    beta (0.7) >= 0 of false negatives
    ========  ====================================================  =============================================

    Ratios are those of the batch and not means over cases: a case without lesions has no Dice coefficient.

    Args:
        name: one of the names above, or `module.function` of a function of your own, which takes its parameters by name
            and returns the formula: logits and labels, both (n,) and floating, to a scalar.
        **parameters: those of the table, or of your function.

    Raises:
        ValueError: the name is unknown or a parameter is out of its range.
        TypeError: a parameter does not belong to the name.

    Reference:
        focal: Lin et al. 2017, arXiv:1708.02002, Eq. 4. dice_bce: Milletari et al. 2016, arXiv:1606.04797, plus
        cross-entropy. tversky: Salehi et al. 2017, arXiv:1706.05721, Eq. 2.

    >>> import torch
    >>> loss = make_map_loss("bce")
    >>> maps, lesions = torch.zeros(1, 1, 3, 1, 1), torch.tensor([1, 0, -1]).view(1, 1, 3, 1, 1)
    >>> loss(maps, lesions)
    tensor(0.6931)
    """
    maker = maker_of(name, MAP_LOSSES)
    whole = with_defaults(name, maker, parameters)
    return MapLoss(BaseLoss(name, maker(**whole), whole))


def _bce() -> Formula:
    return binary_cross_entropy_with_logits


def _focal(*, gamma: float = 2.0) -> Formula:
    check_parameter("gamma", gamma, "focal", gamma >= 0, ">= 0")
    return partial(_of_monai, FocalLoss(gamma=gamma))


def _dice_bce() -> Formula:
    return partial(_of_monai, DiceCELoss(sigmoid=True))


def _tversky(*, alpha: float = 0.3, beta: float = 0.7) -> Formula:
    check_parameter("alpha", alpha, "tversky", alpha >= 0, ">= 0")
    check_parameter("beta", beta, "tversky", beta >= 0, ">= 0")
    return partial(_of_monai, TverskyLoss(sigmoid=True, alpha=alpha, beta=beta))


MAP_LOSSES: dict[str, Maker] = {"bce": _bce, "focal": _focal, "dice_bce": _dice_bce, "tversky": _tversky}
"""The one place where a loss of maps has its name; settings read it."""


def _of_monai(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """Return a loss of MONAI of all voxels as those of one image, (1, 1, n)."""
    return loss(logits.view(1, 1, -1), labels.view(1, 1, -1))
