"""What the training studies had: what a new study is compared with before its answer is trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from prostate_alm.data.manifest import Manifest, StudyRecord
from prostate_alm.delivery.card import GridSpec, TrainingRange
from prostate_alm.progress import Progress, silent

Floats = NDArray[np.float64]


def intensity_variation(region: Any) -> tuple[float, ...]:
    """Return standard deviation / mean of each channel, which no gain of a scanner changes; 0 without any signal.

    Args:
        region: array or tensor (C, X, Y, Z), unnormalised: resampled to `GridSpec.spacing_mm` and cropped or padded to
            `GridSpec.normalised_size`.

    >>> intensity_variation(np.array([[1.0, 3.0], [5.0, 5.0], [0.0, 0.0]]).reshape(3, 2, 1, 1))
    (0.5, 0.0, 0.0)
    """
    channels = np.asarray(region, dtype=np.float64).reshape(len(region), -1)
    means, deviations = channels.mean(axis=1), channels.std(axis=1)
    return tuple(float(d / m) if m > 0 else 0.0 for m, d in zip(means, deviations, strict=True))


def training_range(manifest: Manifest, folder: Path, *, grid: GridSpec, progress: Progress = silent) -> TrainingRange:
    """Return the range of the training studies of a cohort.

    Test studies do not count: the model was not trained on them. What the volumes do not say (the field strength, the
    diffusion's own spacing before it came onto the grid of T2) stays None.

    Args:
        manifest: the cohort.
        folder: where its manifest lies; where a volume is missing below it, only b-values are known.
        grid: how volumes become the network's input.
        progress: called with the studies done and in all.
    """
    training = [study for study in manifest.studies if study.split == "train"]
    acquired = tuple(sorted({tuple(sorted(study.b_values_acquired_s_per_mm2)) for study in training}))
    volumes = [(folder / study.t2.path, folder / study.dwi.path) for study in training]
    if not all(path.is_file() for pair in volumes for path in pair):
        return TrainingRange(b_values_acquired_s_per_mm2=acquired)
    spacings, variations = [], []
    for done, study in enumerate(training, start=1):
        spacings.append([float(mm) for mm in nib.load(folder / study.t2.path).header.get_zooms()[:3]])
        variations.append(intensity_variation(_region(study, folder, grid)))
        progress(done, len(training))
    return TrainingRange(
        t2_spacing_mm=_ranges(spacings),
        b_values_acquired_s_per_mm2=acquired,
        intensity_variation=_ranges(variations),
    )


def _region(study: StudyRecord, folder: Path, grid: GridSpec) -> Any:
    """Return the channels (C, X, Y, Z) of a study as the bundle reads them, before they are normalised."""
    from monai.transforms import Compose, LoadImaged, Orientationd, ResizeWithPadOrCropd, Spacingd  # takes seconds

    keys = ("t2", "dwi")
    read = Compose(
        [
            LoadImaged(keys, reader="NibabelReader", ensure_channel_first=True, image_only=True),
            Orientationd(keys, axcodes="LPS", labels=None),
            Spacingd(keys, pixdim=grid.spacing_mm, mode="bilinear"),
            ResizeWithPadOrCropd(keys, spatial_size=grid.normalised_size, mode="edge"),
        ]
    )
    volumes = read({"t2": str(folder / study.t2.path), "dwi": str(folder / study.dwi.path)})
    return np.concatenate([np.asarray(volumes[key]) for key in keys])


def _ranges(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Return the smallest and the largest value of each column."""
    columns = np.asarray(rows)  # (N, K)
    return tuple((float(low), float(high)) for low, high in zip(columns.min(axis=0), columns.max(axis=0), strict=True))
