"""Where the gland of a study lies, and what a model that looks for it does then: its crop, its words, its refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prostate_alm.data.gland import GlandLocation, Localises, locate_by, locate_gland
from prostate_alm.delivery.card import GlandSpec, GridSpec
from prostate_alm.delivery.prediction import CropPlace, QualityWarning
from prostate_alm.delivery.preprocess import placed_around
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.selection import Refusal
from prostate_alm.imaging.volume import Volume

__all__ = ["CroppedGrid", "GlandFirst", "GlandLocation", "crop_grid", "crop_place", "gland_warnings", "locate_gland"]


@dataclass(frozen=True)
class GlandFirst:
    """What a pack is given so that its crop follows the gland: a trained localiser, and what is done in doubt."""

    folder: Path
    on_doubt: Literal["centre", "refuse"] = "centre"


@dataclass(frozen=True)
class CroppedGrid:
    """A model's grid in one study, and where the gland is; `gland` is None of a model that does not look for it."""

    grid: GridSpec
    gland: GlandLocation | Refusal | None = None


def crop_grid(grid: GridSpec, t2: Volume, *, spec: GlandSpec | None, localiser: Localises | None) -> CroppedGrid:
    """Return where a model's crop lies in a study.

    Args:
        grid: how the model was trained.
        t2: of the study.
        spec: of its localiser; None of a model that crops around the middle.
        localiser: ready to use.

    Raises:
        StudyRefused: the gland's place is doubtful, and the pack refuses such studies.
        ValueError: a model that looks for the gland was given without its localiser.
    """
    if spec is None:
        return CroppedGrid(grid)
    if localiser is None:
        raise ValueError("localiser must be given with a model that looks for the gland, got none.")
    found = locate_by(localiser, t2)
    if isinstance(found, GlandLocation):
        return CroppedGrid(placed_around(grid, t2, found.centre_mm), found)
    if spec.on_doubt == "refuse":
        raise StudyRefused(found.code, f"{found.reason} The model was packed to refuse such studies.")
    return CroppedGrid(grid, found)


def crop_place(cropped: CroppedGrid) -> CropPlace | None:
    """Return what an answer says of its crop; None of a model that does not look for the gland."""
    gland = cropped.gland
    if gland is None:
        return None
    if isinstance(gland, Refusal):
        return CropPlace(around="centre")
    return CropPlace(
        around="gland",
        centre_mm=_rounded(gland.centre_mm),
        low_mm=_rounded(gland.low_mm),
        high_mm=_rounded(gland.high_mm),
        volume_ml=round(gland.volume_ml, 1),
    )


def gland_warnings(cropped: CroppedGrid) -> tuple[QualityWarning, ...]:
    """Return the warning of a study whose crop lies around the middle though the model looks for the gland."""
    if not isinstance(cropped.gland, Refusal):
        return ()
    message = f"{cropped.gland.reason} The image was cropped around the middle of T2."
    return (QualityWarning(code=cropped.gland.code, message=message),)


def _rounded(place_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = (round(one, 1) + 0.0 for one in place_mm)  # no minus zero
    return x, y, z
