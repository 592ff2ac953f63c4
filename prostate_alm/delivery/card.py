"""What a packed model says of itself: network, grid, operating points, calibration and the range of its training."""

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

FORMAT_VERSION, CLASSES_FORMAT_VERSION, LESIONS_FORMAT_VERSION, GLAND_FORMAT_VERSION = 1, 2, 3, 4
"""Number of the layout of packed models, of two classes, of several, of lesions and with a localiser of the gland; a
reader refuses greater ones."""

CONFIDENCE = 0.95
"""Of all intervals of an operating point."""

CARD_KEY = "prostate_alm"
"""Where the pack's `configs/metadata.json` holds the card."""

Channels = Annotated[int, Field(ge=1, le=4096)]
Window = Annotated[int, Field(ge=1, le=16)]
Voxels = Annotated[int, Field(ge=1, le=1024)]
SpacingMm = Annotated[float, Field(ge=0.05, le=100)]
BValueNumber = Annotated[float, Field(ge=0, le=10_000)]

WEIGHTS_MAX, VALUES_MAX = 1 << 25, 1 << 26
"""Most weights of all members, and most values of an image or of a layer: 128 and 256 MiB in float32."""


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text must be printable, got control characters")
    return text


Text = Annotated[str, Field(max_length=300), AfterValidator(_plain)]
"""One line that a terminal may show."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ClassName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_plain)]
"""As long as a coded concept of DICOM may be."""


class ClassesSpec(_Frozen):
    """Several classes in the order of the network's logits; the operating points are those of the critical one."""

    names: tuple[ClassName, ...] = Field(min_length=2, max_length=64)
    critical: int = Field(ge=0)

    @model_validator(mode="after")
    def _critical_is_one(self) -> Self:
        if self.critical >= len(self.names) or len(set(self.names)) < len(self.names):
            raise ValueError(f"critical must be one of {len(self.names)} different names, got {self.critical}")
        return self

    @property
    def rivals(self) -> tuple[int, ...]:
        """Numbers of the other classes."""
        return tuple(number for number in range(len(self.names)) if number != self.critical)


class NetworkSpec(_Frozen):
    """Arguments of `CascadeNet`, as data: a packed model runs no code of its own."""

    spatial_dims: Literal[3] = 3
    path_channels: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    features: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    pooling: tuple[tuple[Window, Window, Window], ...] = Field(min_length=1, max_length=16)
    outputs: int = Field(default=1, ge=1, le=64, exclude_if=lambda outputs: outputs == 1)  # packs keep their bytes

    @model_validator(mode="after")
    def _one_pooling_a_convolution(self) -> Self:
        if len(self.features) != len(self.pooling):
            raise ValueError(f"pooling must have {len(self.features)} entries, got {len(self.pooling)}")
        return self

    @property
    def weights(self) -> int:
        """How many numbers one member has."""
        layers = ((before, *self.features) for before in self.path_channels)
        convolutions = sum((27 * a + 1) * b for path in layers for a, b in pairwise(path))
        return convolutions + (len(self.path_channels) * self.features[-1] + 1) * self.outputs

    def values(self, image_size: tuple[int, ...]) -> int:
        """Return how many numbers the largest layer of a path makes of an image; 0 where nothing is left of it."""
        sizes, largest = image_size, 0
        for features, window in zip(self.features, self.pooling, strict=True):
            largest = max(largest, features * math.prod(sizes))
            sizes = tuple(size // part for size, part in zip(sizes, window, strict=True))
        return largest if math.prod(sizes) else 0


class LesionNetworkSpec(_Frozen):
    """Arguments of `DualPathUNet`, as data, and the temperature of the soft maximum that makes a case's logit of a map.

    The case's logit of a member is T log Σ exp(z / T) over the voxels of its map z (`method.lesions.case_logits`).
    """

    path_channels: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    features: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    strides: tuple[tuple[Window, Window, Window], ...] = Field(min_length=1, max_length=16)
    temperature: float = Field(gt=0, le=100)

    @model_validator(mode="after")
    def _one_stride_a_level(self) -> Self:
        if len(self.features) != len(self.strides):
            raise ValueError(f"strides must have {len(self.features)} entries, got {len(self.strides)}")
        return self

    @property
    def outputs(self) -> int:
        """One logit a voxel."""
        return 1

    @property
    def _joined(self) -> tuple[int, ...]:
        return tuple(len(self.path_channels) * count for count in self.features)

    @property
    def weights(self) -> int:
        """How many numbers one member has."""
        encoders = sum(27 * a * b for first in self.path_channels for a, b in pairwise((first, *self.features)))
        decoder = sum(27 * (above + own) * own for own, above in pairwise(self._joined))
        return encoders + decoder + self._joined[0] + 1

    def values(self, image_size: tuple[int, ...]) -> int:
        """Return how many numbers the largest layer makes of an image; a level has as many as its decoder takes in."""
        sizes, largest = image_size, math.prod(image_size)
        for features, stride, below in zip(self._joined, self.strides, (*self._joined[1:], 0), strict=True):
            sizes = tuple(-(-size // part) for size, part in zip(sizes, stride, strict=True))
            largest = max(largest, (features + below) * math.prod(sizes))
        return largest


class GlandSpec(_Frozen):
    """The localiser of a pack, whose crop follows the gland: `DualPathUNet` on T2 alone, on a coarse grid.

    `on_doubt` says what is done with a study whose gland is not found, is found twice or is cut by T2: cropped around
    the middle with a warning, or refused.
    """

    features: tuple[Channels, ...] = Field(min_length=1, max_length=16)
    strides: tuple[tuple[Window, Window, Window], ...] = Field(min_length=1, max_length=16)
    spacing_mm: float = Field(ge=0.5, le=20)
    size: tuple[Voxels, Voxels, Voxels]
    on_doubt: Literal["centre", "refuse"] = "centre"

    @property
    def network(self) -> LesionNetworkSpec:
        """Its network as that of a map."""
        return LesionNetworkSpec(path_channels=(1,), features=self.features, strides=self.strides, temperature=1)

    @model_validator(mode="after")
    def _is_small(self) -> Self:
        values = self.network.values(self.size)
        if values > VALUES_MAX or self.network.weights > WEIGHTS_MAX:
            raise ValueError(f"a localiser must have at most {VALUES_MAX} values in a layer, got {values}")
        return self


class GridSpec(_Frozen):
    """How volumes become the network's input, in LPS order: resampling to `spacing_mm`, crop or pad, normalise, crop.

    Sizes are numbers of voxels: `normalised_size` is the region whose mean and standard deviation normalise a channel,
    `image_size` its centre, which the network sees.
    """

    spacing_mm: tuple[SpacingMm, SpacingMm, SpacingMm]
    normalised_size: tuple[Voxels, Voxels, Voxels]
    image_size: tuple[Voxels, Voxels, Voxels]
    b_values_s_per_mm2: tuple[BValueNumber, ...] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _image_lies_within(self) -> Self:
        if any(inner > outer for inner, outer in zip(self.image_size, self.normalised_size, strict=True)):
            raise ValueError(f"image_size must lie within normalised_size, got {self.image_size}")
        return self


class StoredOperatingPoint(_Frozen):
    """A threshold on the ensemble's logit, chosen on validation samples: logit >= threshold is positive.

    `tpr` and `fpr` are those on the validation samples with their 95 % intervals; `threshold_low` and `threshold_high`
    are the interval of the threshold itself, None where there are too few positives to bound it on that side.
    `threshold_guaranteed` is the greatest threshold whose TPR is at least the target with 95 % confidence, None with
    too few positives. All rest on `positives` and `negatives` samples; see `method.operating_point`.
    """

    target_tpr: float = Field(gt=0, le=1)
    threshold: float
    threshold_low: float | None
    threshold_high: float | None
    threshold_guaranteed: float | None = None
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

    Each range is (smallest, largest); None where the cohort does not say. Spacings are per axis (i, j, k) of the
    volume.
    `intensity_variation` is the range of standard deviation / mean of each channel (T2, then each b-value) over the
    region of `GridSpec.normalised_size` before it is normalised: see `preprocess.intensity_variation`.
    """

    t2_spacing_mm: tuple[tuple[float, float], ...] | None = None
    dwi_spacing_mm: tuple[tuple[float, float], ...] | None = None
    field_strength_t: tuple[float, float] | None = None
    b_values_acquired_s_per_mm2: tuple[tuple[float, ...], ...] = ()
    manufacturers: tuple[Text, ...] = ()
    intensity_variation: tuple[tuple[float, float], ...] | None = None


class ValidationScores(_Frozen):
    """Out-of-fold logits of the training cohort without identifiers: what a new logit is shown against."""

    labels: tuple[Literal[0, 1], ...]
    logits: tuple[float, ...]

    @model_validator(mode="after")
    def _a_label_a_logit(self) -> Self:
        if len(self.labels) != len(self.logits):
            raise ValueError(f"labels must be as many as logits, got {len(self.labels)} and {len(self.logits)}")
        return self


class StoredLesionPoint(_Frozen):
    """A threshold on the confidence of candidates, a logit: candidates at or above it are told.

    It is the highest that finds `target_sensitivity` of the validation lesions, or, where too many of these were found
    by no candidate at all, the one that finds all that were. `sensitivity` is the share that it finds, with its 95 %
    interval, `false_positives_per_case` what it tells besides; see `method.lesion_metrics`.
    """

    target_sensitivity: float = Field(gt=0, le=1)
    threshold: float
    sensitivity: float = Field(ge=0, le=1)
    sensitivity_low: float = Field(ge=0, le=1)
    sensitivity_high: float = Field(ge=0, le=1)
    false_positives_per_case: float = Field(ge=0)


class LesionsSpec(_Frozen):
    """What the candidates of the mean out-of-fold maps found in the validation cases: thresholds and the FROC curve.

    `found` are the confidences at which lesions were found, `false_positives` those of candidates that found nothing,
    as far as they matter: down to the least of `found`. `missed` lesions were found by no candidate. There is a point
    for each operating point of the cases.
    """

    cases: int = Field(ge=1)
    found: tuple[float, ...] = Field(min_length=1)
    missed: int = Field(ge=0)
    false_positives: tuple[float, ...]
    points: tuple[StoredLesionPoint, ...] = Field(min_length=1)

    @property
    def lesions(self) -> int:
        """How many validation lesions there were."""
        return len(self.found) + self.missed

    def point(self, target_sensitivity: float) -> StoredLesionPoint:
        """Return the point of a target that is stored.

        Raises:
            ValueError: there is none.
        """
        for point in self.points:
            if abs(point.target_sensitivity - target_sensitivity) < 1e-9:
                return point
        raise ValueError(f"target_sensitivity must be one that is stored, got {target_sensitivity:g}.")


class ModelCard(_Frozen):
    """All that prediction needs besides the weights; stored as `prostate_alm` in the pack's `configs/metadata.json`.

    Without `classes` there are two, and one logit. With them, logit and positives are those of the critical class: its
    log-odds against the others. A model of `lesions` has a logit for each voxel, and the case's is made of these.

    `label_definition` is what the manifest says of label 1, '' where it says nothing.
    """

    format_version: int = Field(ge=1)
    name: Text
    version: Text
    created_by: Text
    ensemble: Text
    experiment: Text
    data: Text
    data_is_synthetic: bool
    label_definition: Text = ""
    members: int = Field(ge=1, le=1000)
    dtype: Literal["float32"] = "float32"
    network: NetworkSpec | LesionNetworkSpec
    grid: GridSpec
    operating_points: tuple[StoredOperatingPoint, ...] = Field(min_length=1)
    default_target_tpr: float = Field(gt=0, le=1)
    calibration: PlattCalibration
    training_range: TrainingRange
    validation: ValidationScores
    classes: ClassesSpec | None = Field(default=None, exclude_if=lambda classes: classes is None)
    lesions: LesionsSpec | None = Field(default=None, exclude_if=lambda lesions: lesions is None)

    gland: GlandSpec | None = Field(default=None, exclude_if=lambda gland: gland is None)

    @model_validator(mode="after")
    def _gland_fits(self) -> Self:
        if self.gland is not None and self.format_version < GLAND_FORMAT_VERSION:
            raise ValueError(f"format_version must be {GLAND_FORMAT_VERSION} with a gland, got {self.format_version}")
        return self

    @model_validator(mode="after")
    def _lesions_fit(self) -> Self:
        if (self.lesions is not None) != isinstance(self.network, LesionNetworkSpec):
            raise ValueError("lesions must be there with a network of maps, and with no other")
        if self.lesions is None:
            return self
        if self.format_version < LESIONS_FORMAT_VERSION or self.classes is not None:
            raise ValueError(
                f"format_version must be {LESIONS_FORMAT_VERSION} with lesions, without classes, got "
                f"{self.format_version}"
            )
        for point in self.operating_points:
            self.lesions.point(point.target_tpr)
        return self

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        outputs = 1 if self.classes is None else len(self.classes.names)
        if self.network.outputs != outputs:
            raise ValueError(f"network must have {outputs} outputs, got {self.network.outputs}")
        if self.classes is not None and self.format_version < CLASSES_FORMAT_VERSION:
            raise ValueError(f"format_version must be {CLASSES_FORMAT_VERSION} with classes, got {self.format_version}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        channels = 1 + len(self.grid.b_values_s_per_mm2)  # T2 and each b-value
        if sum(self.network.path_channels) != channels:
            raise ValueError(f"network must take {channels} channels, got {list(self.network.path_channels)}")
        if self.members * self.network.weights > WEIGHTS_MAX:
            raise ValueError(
                f"members must have at most {WEIGHTS_MAX} weights, got {self.members * self.network.weights}"
            )
        of_layer = self.network.values(self.grid.image_size)
        if not 0 < max(of_layer, channels * math.prod(self.grid.normalised_size)) <= VALUES_MAX or not of_layer:
            raise ValueError(f"images and layers must have 1 to {VALUES_MAX} values, got others")
        self.operating_point()
        return self

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
