"""Where lesion and gland of a synthetic study lie, on the grid of its axial T2: truth, not a reader's outline."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prostate_alm.phantom.render import Grid, block_mean, finer, share
from prostate_alm.phantom.study import StudyPlan, t2_grid

_PARTS = (2, 2, 2)  # of a voxel, in which the shares are computed
_COVERED = 0.5


@dataclass(frozen=True)
class PhantomMasks:
    """Label maps (slices, rows, columns) on a grid in the patient's frame (LPS, mm).

    `lesions` is None where the reader asks for contrast though nothing is there: nobody could outline it.
    """

    gland: NDArray[np.uint8]
    lesions: NDArray[np.uint8] | None
    grid: Grid


def render_masks(plan: StudyPlan) -> PhantomMasks:
    """Return the masks of a study: voxels that gland and lesion cover to one half or more.

    The lesion is there where it makes the label, in a study of label 1. One that is too plain, or too faint, to ask for
    contrast is background, as its study is a negative.

    Args:
        plan: what `plan_study` drew; its images need not be rendered.

    Returns:
        Label maps of 0 and 1; lesions are clipped by the gland, as they are painted.

    >>> from prostate_alm.phantom.study import plan_study
    >>> masks = render_masks(plan_study(5))
    >>> bool(masks.lesions.any()), bool((masks.lesions <= masks.gland).all())
    (True, True)
    """
    grid = t2_grid(plan)
    fine = finer(plan.in_gland(grid), _PARTS)
    gland = share(plan.anatomy.gland, fine)
    covered = np.zeros_like(gland)
    for structure in plan.anatomy.structures if plan.label else ():
        if structure.tissue == "lesion":
            covered = share(structure, fine) * gland
    lesions = _covered(covered)
    is_unfounded = bool(plan.label) and plan.anatomy.lesion is None
    return PhantomMasks(_covered(gland), None if is_unfounded else lesions, grid)


def _covered(fine: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (block_mean(fine, _PARTS) >= _COVERED).astype(np.uint8)
