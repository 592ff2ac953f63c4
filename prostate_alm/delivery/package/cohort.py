"""The training studies of an ensemble, read once more: what they have in common, and what the packed network says.

Members may have computed in bfloat16 when they were validated, while prediction computes in float32: their logits
differ by up to a hundredth. A threshold that is the logit of one validation study must be that of the network that will
be compared with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prostate_alm.data.gland import GlandLocation, gland_of_file, locate_by
from prostate_alm.data.manifest import Manifest, StudyRecord
from prostate_alm.delivery.card import GridSpec, LesionNetworkSpec, NetworkSpec, TrainingRange
from prostate_alm.delivery.package.lesions import detections_in
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.preprocess import cropped_channels, intensity_variation, normalised_image, placed_around
from prostate_alm.delivery.scores import study_logits
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume
from prostate_alm.method.lesion_metrics import Detections
from prostate_alm.progress import Progress, silent
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.training.gland_localiser import Localiser
from prostate_alm.training.out_of_fold import FoldLogits

LARGEST_DIFFERENCE_SHARE = 0.05
"""Between a member's logit now and then, as a share of the standard deviation of all: bfloat16 has 8 bits (0.4 %)."""


@dataclass(frozen=True)
class TrainingStudies:
    """Range and validation logits of the training studies; `recomputed` where their volumes were at hand.

    `detections` are what the candidates of the members' mean maps found in them, of a model of lesions only.
    """

    range: TrainingRange
    logits: FoldLogits
    recomputed: bool
    detections: tuple[Detections, ...] = ()


@dataclass(frozen=True, eq=False)
class AppliedNetwork:
    """The ensemble as it is packed: what turns the volumes of a study into logits.

    Attributes:
        spec: of the network.
        grid: how volumes become its input.
        members: with the weights that are packed, in evaluation mode.
        localiser: of members whose crop is around the gland; a mask that somebody drew goes before it.
    """

    spec: NetworkSpec | LesionNetworkSpec
    grid: GridSpec
    members: MeanLogits
    localiser: Localiser | None = None

    def grid_of(self, study: StudyRecord, t2: Volume, *, folder: Path) -> GridSpec:
        """Return the grid of a study as `training.gland_crop.CropToGland` places it."""
        if self.localiser is None:
            return self.grid
        found = locate_by(self.localiser, t2) if study.gland is None else gland_of_file(folder / study.gland.path)
        return placed_around(self.grid, t2, found.centre_mm) if isinstance(found, GlandLocation) else self.grid

    def outputs(self, image: torch.Tensor, *, members: Iterable[int]) -> torch.Tensor:
        """Return what some members say of an image (C, X, Y, Z)."""
        with torch.inference_mode():
            return torch.cat([self.members.members[number](image[None]) for number in members])


def read_training_studies(
    manifest: Manifest, folder: Path, *, applied: AppliedNetwork, recorded: FoldLogits, progress: Progress = silent
) -> TrainingStudies:
    """Return what the volumes of the training studies say; test studies are not touched.

    Args:
        manifest: the cohort; of a model of lesions its volumes are there.
        folder: where its manifest lies.
        applied: the ensemble.
        recorded: the members' validation logits as training wrote them.
        progress: called with the studies done and in all.

    Returns:
        Logits computed anew in float32; those recorded, and the b-values alone, where a volume is missing.

    Raises:
        PackageError: a logit is far from the one recorded: weights, volumes or predictions were exchanged since.
    """
    training = [study for study in manifest.studies if study.split == "train"]
    if not all((folder / file.path).is_file() for study in training for file in (study.t2, study.dwi)):
        return TrainingStudies(
            TrainingRange(b_values_acquired_s_per_mm2=acquired_b_values(training)), recorded, recomputed=False
        )
    logits: dict[str, dict[int, NDArray[np.float64]]] = {}
    spacings, variations = [], []
    detections: list[Detections] = []
    for done, study in enumerate(training, start=1):
        volumes = read_volumes(study, folder, manifest.b_values_s_per_mm2)
        grid = applied.grid_of(study, volumes.t2, folder=folder)
        channels = cropped_channels(volumes, grid)
        spacings.append(np.linalg.norm(volumes.t2.affine_ras_mm[:3, :3], axis=0))
        variations.append(intensity_variation(channels))
        if study.id in recorded:
            outputs = applied.outputs(normalised_image(channels, grid), members=recorded[study.id])
            own = study_logits(outputs, applied.spec).double().numpy()
            logits[study.id] = dict(zip(recorded[study.id], own, strict=True))
            if isinstance(applied.spec, LesionNetworkSpec):
                detections.append(detections_in(outputs, volumes.t2, study, folder=folder, grid=grid))
        progress(done, len(training))
    _require_near(logits, recorded)
    trained = range_of(training, t2_spacings_mm=spacings, variations=variations)
    return TrainingStudies(trained, logits, recomputed=True, detections=tuple(detections))


def read_volumes(study: StudyRecord, folder: Path, b_values: tuple[float, ...]) -> StudyVolumes:
    """Return the volumes of a study as its manifest holds them, on the grid of T2."""
    import nibabel as nib  # takes half a second, which opening a pack need not wait for

    t2, dwi = (nib.load(folder / file.path) for file in (study.t2, study.dwi))
    signal = dwi.get_fdata(dtype=np.float32)  # (I, J, K, B)
    return StudyVolumes(
        t2=Volume(t2.get_fdata(dtype=np.float32), t2.affine),
        dwi=tuple(Volume(signal[..., index], dwi.affine) for index in range(signal.shape[-1])),
        b_values_s_per_mm2=b_values,
        b_values_acquired_s_per_mm2=study.b_values_acquired_s_per_mm2,
        b_values_computed=study.b_values_computed,
        selection=Selection(None, (), None, ()),
    )


def _require_near(logits: FoldLogits, recorded: FoldLogits) -> None:
    pairs = np.array([(logits[key][m], recorded[key][m]) for key in recorded for m in recorded[key]])  # (P, 2, K)
    differences = np.abs(pairs[:, 0] - pairs[:, 1])
    allowed = LARGEST_DIFFERENCE_SHARE * pairs[:, 1].std() + 1e-3
    if not differences.max() <= allowed:
        raise PackageError(
            "not_packable",
            f"validation logits must be those that training recorded to {allowed:.2g}, got a difference of "
            f"{differences.max():.2g}. Weights, volumes or predictions changed since: train the members again.",
        )


_DIGITS = 6  # significant; processors round the last ones differently, and the same input shall give the same bytes


def acquired_b_values(studies: Iterable[StudyRecord]) -> tuple[tuple[float, ...], ...]:
    """Return each set of b-values that a study was acquired with, once."""
    return tuple(sorted({tuple(sorted(study.b_values_acquired_s_per_mm2)) for study in studies}))


def range_of(
    studies: Sequence[StudyRecord], *, t2_spacings_mm: Sequence[Sequence[float]], variations: Sequence[Sequence[float]]
) -> TrainingRange:
    """Return the range of training studies whose volumes were read.

    What the volumes do not say stays None: the field strength, and the diffusion's own spacing, since it came onto the
    grid of T2.

    Args:
        studies: the N training studies.
        t2_spacings_mm: (N, 3).
        variations: (N, C), see `intensity_variation`.
    """
    return TrainingRange(
        t2_spacing_mm=_ranges(t2_spacings_mm),
        b_values_acquired_s_per_mm2=acquired_b_values(studies),
        intensity_variation=_ranges(variations),
    )


def _ranges(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Return the smallest and the largest value of each column."""
    columns = np.asarray(rows)  # (N, K)
    return tuple((_rounded(low), _rounded(high)) for low, high in zip(columns.min(0), columns.max(0), strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
