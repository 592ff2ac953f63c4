"""Candidates of lesions in a report: their outline on the images, and the rows of their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import AbstractPathEffect, withStroke
from numpy.typing import NDArray

from prostate_alm.delivery.prediction import LesionCandidate
from prostate_alm.delivery.report.views import Views
from prostate_alm.delivery.report.words import Words

OUTLINE = (0.94, 0.89, 0.26)
"""Yellow of Okabe and Ito; each outline bears its number, so that the colour says nothing alone."""
_STROKE: list[AbstractPathEffect] = [withStroke(linewidth=2.6, foreground="black")]


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A row of the table in the reader's words; `place` is the voxel to show in the viewer, where there are images."""

    candidate: LesionCandidate
    position: str
    volume: str
    part: str
    slice: str
    place: tuple[int, int, int] | None


def candidate_rows(candidates: Sequence[LesionCandidate], views: Views | None, words: Words) -> list[CandidateRow]:
    """Return the rows of the table of candidates; without images no slices."""
    rows = []
    for one in candidates:
        place = None if views is None else views.peaks[one.number - 1]
        number = "" if views is None or place is None else str(views.first_slice + place[2])
        volume = words("lesions.ml", ml=words.number(one.volume_mm3 / 1000, ".2f"))
        rows.append(CandidateRow(one, words.position(one), volume, words.part_of_gland(one), number, place))
    return rows


def draw_outlines(axes: Axes, views: Views, index: int) -> None:
    """Draw the outline of each candidate in a slice, and its number beside it."""
    if views.labels is None:
        return
    labels = views.labels[:, :, index]
    for number in np.unique(labels[labels > 0]).tolist():
        inside = labels == number
        outline_of(axes, inside, width=1.2)
        x, y = np.argwhere(inside).max(axis=0)[0] + 1, np.argwhere(inside).min(axis=0)[1] - 1
        axes.text(x, y, str(number), color=OUTLINE, fontsize="small", fontweight="bold", path_effects=_STROKE)


def outline_of(axes: Axes, inside: NDArray[np.bool_], *, width: float) -> None:
    """Draw the outline of a mask (X, Y) on the axes of its image."""
    if inside.any() and not inside.all():
        line = axes.contour(inside.T.astype(np.float32), levels=[0.5], colors=[OUTLINE], linewidths=width)
        line.set_path_effects(_STROKE)
