"""The crop of a study around its gland: where it was drawn by its mask, else by a localiser, and else the middle."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import SpatialCrop

from prostate_alm.data.gland import GlandLocation, crop_slice, gland_of_file, locate_by, volume_of_file, voxel_at
from prostate_alm.data.lesion_maps import mark_cut
from prostate_alm.data.manifest import StudyRecord
from prostate_alm.training.gland_localiser import WEIGHTS, Localiser, open_localiser
from prostate_alm.training.settings import Sample
from prostate_alm.whole_files import sha256_of_file

logger = logging.getLogger(__name__)


def with_glands(
    samples: Sequence[Sample], studies: Sequence[StudyRecord], folder: Path, localiser: Path | None
) -> list[Sample]:
    """Return samples that say where `CropToGland` finds their gland; what it rests on counts among their checksums.

    Args:
        samples: of `studies`.
        studies: of a manifest.
        folder: where it lies.
        localiser: folder of a trained localiser, for studies whose gland nobody drew.

    Raises:
        ValueError: there is no localiser, or none was given and a study needs it.
    """
    drawn = {study.id: study.gland for study in studies if study.gland is not None}
    lacking = sum(sample["sample_id"] not in drawn for sample in samples)
    if lacking and localiser is None:
        raise ValueError(
            f"localiser must be given where the gland of a study was not drawn, got none for {lacking} of "
            f"{len(samples)} studies. Train one with bundles/gland and give --localiser FOLDER"
        )
    sha256 = "" if localiser is None else localiser_sha256(localiser)

    def one(sample: Sample) -> Sample:
        mask = drawn.get(sample["sample_id"])
        source = "" if mask is None else str(folder / mask.path)
        checksum = f"gland {sha256 if mask is None else mask.sha256}"
        return sample | {
            "file_of_t2": sample["t2"],
            "file_of_gland": source,
            "localiser": "" if localiser is None else str(localiser),
            "volumes_sha256": (*sample["volumes_sha256"], checksum),
        }

    return [one(sample) for sample in samples]


def localiser_sha256(folder: Path) -> str:
    """Return the checksum of the weights of a trained localiser.

    Raises:
        ValueError: there is none.
    """
    open_localiser(folder)
    return sha256_of_file(folder / WEIGHTS)


class CropToGland:
    """Cut a study down to `size` around its gland, moved so far that the crop lies within T2; after `Spacingd`.

    An axis that is no longer than the crop stays whole, and all of them do where the gland's place is doubtful: what
    follows crops around the middle. A lesion that is cut is marked.

    Args:
        keys: volumes (C, X, Y, Z) on one grid in the order of LPS, `t2` among them; `lesions` is a map of labels.
        size: of the crop along X, Y and Z.

    Reference:
        `delivery.preprocess` makes the same crop of a new study.
    """

    def __init__(self, keys: Sequence[str], size: Sequence[int]) -> None:
        self.keys, self.size = tuple(keys), tuple(size)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sample with cropped volumes."""
        gland = _located(sample)
        if gland is None:
            return dict(sample)
        at = voxel_at(gland.centre_mm, np.asarray(sample["t2"].affine, dtype=np.float64))
        axes = zip(sample["t2"].shape[1:], self.size, at, strict=True)
        crop = SpatialCrop(roi_slices=[crop_slice(*axis) for axis in axes])
        cropped = {key: crop(sample[key]) for key in self.keys}
        if "lesions" in cropped:
            cropped["lesions"] = mark_cut(sample["lesions"], cropped["lesions"])
        return {**sample, **cropped}


def _located(sample: Mapping[str, Any]) -> GlandLocation | None:
    """Return where the gland of a sample lies; None, after a warning, where that is doubtful."""
    if sample["file_of_gland"]:
        return gland_of_file(Path(sample["file_of_gland"]))
    found = locate_by(_opened(sample["localiser"]), volume_of_file(Path(sample["file_of_t2"])))
    if isinstance(found, GlandLocation):
        return found
    logger.warning("study %s is cropped around its middle: %s %s", sample["sample_id"], found.code, found.reason)
    return None


@cache
def _opened(folder: str) -> Localiser:
    return open_localiser(Path(folder))[0]
