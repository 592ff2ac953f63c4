"""The golden table of the selection: one small builder for each kind of study that hospitals send.

A case bends the plain study of `build` (T2 in series 2, diffusion at b 50, 400, 800 in series 3). To add one:
a function that returns images, under `@case` with the reason, which names the DICOM part, and what must come out where
it differs from the plain study. Truth is DICOM's meaning of the element, or what its vendor documents.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import load_selection

B_VALUES = (50.0, 400.0, 800.0)
SAGITTAL = [0, 1, 0, 0, 0, -1]


@dataclass(frozen=True)
class Case:
    """What must come of a study: the series taken with their b-values, or a code; roles of series; warnings."""

    images: Callable[[Any], list[Dataset]]
    why: str
    refused: str | None = None
    t2: int = 2
    dwi: dict[int, tuple[float, ...]] = field(default_factory=lambda: {3: B_VALUES})
    roles: dict[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    says: str = ""
    has_plain_voxels: bool = False

    def require(self, folder: Path, plain_voxels: dict[int, list[np.ndarray]]) -> None:
        """Compare what is selected of the study in a folder with what must come out."""
        selection = explain_study(folder)
        assert (selection.refused and selection.refused.code) == self.refused, selection.to_text()
        assert self.says in selection.to_text()
        roles = {one.series.number: one.role for one in selection.series}
        assert self.roles.items() <= roles.items(), selection.to_text()
        assert tuple(one.code for one in selection.doubts) == self.warnings, selection.to_text()
        if self.refused is None:
            assert selection.t2 is not None
            assert selection.t2.number == self.t2
            assert {one.series.number: one.b_values_s_per_mm2 for one in selection.dwi} == self.dwi
            found = voxels_of(selection)
            for one, other in zip(found, plain_voxels[found[0].shape[2]], strict=True) if self.has_plain_voxels else ():
                np.testing.assert_array_equal(one, other)


class Cases(dict[str, Case]):
    """A table of cases by the name of their builder."""

    def case(self, why: str, **expected: Any) -> Callable[..., Any]:
        """Enter a builder into the table."""

        def enter(images: Callable[[Any], list[Dataset]]) -> Callable[[Any], list[Dataset]]:
            self[images.__name__.strip("_")] = Case(images, why, **expected)
            return images

        return enter


def voxels_of(selection: Selection) -> list[np.ndarray]:
    """Return the voxels of T2 and diffusion."""
    volumes = load_selection(selection)
    return [one.voxels for one in (volumes.t2, *volumes.dwi)]


def bent(images: list[Dataset], **elements: Any) -> list[Dataset]:
    for image in images:
        for keyword, value in elements.items():
            setattr(image, keyword, value)
    return images


def with_private(images: list[Dataset], group: int, creator: str, element: int, vr: str, value: Any) -> list[Dataset]:
    for image in images:
        image.private_block(group, creator, create=True).add_new(element, vr, value)
    return images


def own(b, images: list[Dataset], tag: str) -> list[Dataset]:
    """Return copies as objects of their own."""
    return [bent([one], SOPInstanceUID=b.uid(f"{tag} {one.SOPInstanceUID}"))[0] for one in images]


def rival(b, **changes: Any) -> list[Dataset]:
    """Return the plain study with a later T2 in series 9, which would be taken if it were as good."""
    return b.study() + b.series(9, **changes)


def undirected(b, **elements: Any) -> list[Dataset]:
    """Return diffusion whose ImageType does not say that it is a trace."""
    return b.diffusion(3, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"], **elements)
