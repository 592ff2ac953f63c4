"""What a packed model says of itself: network, grid, operating points, calibration and the range of its training."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1
"""Number of the layout of packed models; a reader refuses greater ones."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkSpec(_Frozen):
    """Arguments of `CascadeNet`, as data: a packed model runs no code of its own."""

    spatial_dims: Literal[3] = 3
    path_channels: tuple[int, ...]
    features: tuple[int, ...]
    pooling: tuple[tuple[int, int, int], ...]


class GridSpec(_Frozen):
    """How volumes become the network's input, in LPS order: resampling to `spacing_mm`, crop or pad, normalise, crop.

    Sizes are numbers of voxels: `normalised_size` is the region whose mean and standard deviation normalise a channel,
    `image_size` its centre, which the network sees.
    """

    spacing_mm: tuple[float, float, float]
    normalised_size: tuple[int, int, int]
    image_size: tuple[int, int, int]
    b_values_s_per_mm2: tuple[float, ...]


class StoredOperatingPoint(_Frozen):
    """A threshold on the ensemble's logit, chosen on validation samples: logit >= threshold is positive.

    `tpr` and `fpr` are those on the validation samples with their 95 % intervals; `threshold_low` and `threshold_high`
    are the interval of the threshold itself. All rest on `positives` and `negatives` samples.
    """

    target_tpr: float = Field(gt=0, le=1)
    threshold: float
    threshold_low: float
    threshold_high: float
    tpr: float = Field(ge=0, le=1)
    tpr_low: float = Field(ge=0, le=1)
    tpr_high: float = Field(ge=0, le=1)
    fpr: float = Field(ge=0, le=1)
    fpr_low: float = Field(ge=0, le=1)
    fpr_high: float = Field(ge=0, le=1)
    positives: int = Field(ge=1)
    negatives: int = Field(ge=1)


class PlattCalibration(_Frozen):
    """Probability = sigmoid(slope · logit + intercept), fitted on validation samples of the given prevalence."""

    slope: float = Field(gt=0)
    intercept: float
    prevalence: float = Field(gt=0, lt=1)
    samples: int = Field(ge=2)


class TrainingRange(_Frozen):
    """What the training studies had; a study outside is answered with a warning.

    Each range is (smallest, largest); None where the cohort does not say. `intensity_*` are ranges of statistics of the
    unnormalised channels (T2, then each b-value), one per channel.
    """

    t2_spacing_mm: tuple[tuple[float, float], ...] | None = None
    dwi_spacing_mm: tuple[tuple[float, float], ...] | None = None
    field_strength_t: tuple[float, float] | None = None
    b_values_acquired_s_per_mm2: tuple[tuple[float, ...], ...] = ()
    manufacturers: tuple[str, ...] = ()
    intensity_variation: tuple[tuple[float, float], ...] | None = None


class ValidationScores(_Frozen):
    """Out-of-fold logits of the training cohort without identifiers: what a new logit is shown against."""

    labels: tuple[int, ...]
    logits: tuple[float, ...]


class ModelCard(_Frozen):
    """All that prediction needs besides the weights; stored as `prostate_alm` in the pack's `configs/metadata.json`."""

    format_version: int = Field(ge=1)
    name: str
    version: str
    created_by: str
    ensemble: str
    experiment: str
    data: str
    data_is_synthetic: bool
    members: int = Field(ge=1)
    dtype: Literal["float32"] = "float32"
    network: NetworkSpec
    grid: GridSpec
    operating_points: tuple[StoredOperatingPoint, ...] = Field(min_length=1)
    default_target_tpr: float = Field(gt=0, le=1)
    calibration: PlattCalibration
    training_range: TrainingRange
    validation: ValidationScores

    def operating_point(self, target_tpr: float | None = None) -> StoredOperatingPoint:
        """Return the stored operating point for a target TPR; without one, the default.

        Raises:
            ValueError: there is none for it.
        """
        wanted = self.default_target_tpr if target_tpr is None else target_tpr
        for point in self.operating_points:
            if abs(point.target_tpr - wanted) < 1e-9:
                return point
        stored = ", ".join(f"{point.target_tpr:g}" for point in self.operating_points)
        raise ValueError(
            f"target_tpr must be one that the model was packed with, got {wanted:g}. Available: [{stored}]. "
            "Pack the ensemble again with --target-tpr."
        )
