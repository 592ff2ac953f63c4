"""The answer for one study, or the reason why there is none: what `prostate-alm predict` writes as JSON."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

NOTICE = "Research use only, not for diagnosis."
UNEXPECTED = "unexpected_error"
"""Code of a refusal that is the program's fault, not the study's."""

SCHEMA_VERSION: Literal["1.0"] = "1.0"
"""Of an answer about two classes, or a refusal."""
CLASSES_SCHEMA_VERSION: Literal["1.1"] = "1.1"
"""Of an answer about several classes."""
LESIONS_SCHEMA_VERSION: Literal["1.2"] = "1.2"
"""Of an answer that says where lesions are."""

GLAND_SCHEMA_VERSION: Literal["1.3"] = "1.3"
"""Of an answer of a model that looks for the gland."""

Pseudonym = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""First 16 hexadecimal digits of the SHA-256 of the Study Instance UID: the same for any order and naming of files."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""Of the contents of a study's files, whatever their names and order; None where they could not be read."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UsedSeries(_Frozen):
    """A series of the study: its role and reason as `study explain` gives them, and its b-values in s/mm²."""

    series_number: int
    description: str
    role: str
    used: bool
    b_values_s_per_mm2: tuple[float, ...]
    reason: str


class QualityWarning(_Frozen):
    """A reason to distrust the answer: a stable code (docs/predict.md lists them) and one line."""

    code: str
    message: str


class AppliedOperatingPoint(_Frozen):
    """The frozen operating point that made the decision: logit >= threshold is positive.

    `threshold_probability` is the calibrated probability of the threshold; answers of older versions lack it.
    """

    target_tpr: float
    threshold: float
    tpr: float
    tpr_low: float
    tpr_high: float
    fpr: float
    fpr_low: float
    fpr_high: float
    positives: int
    negatives: int
    threshold_probability: float | None = Field(default=None, exclude_if=lambda probability: probability is None)


class ModelIdentity(_Frozen):
    """Which packed model answered; `sha256` is of the pack's file."""

    name: str
    version: str
    sha256: str
    members: int
    trained_on: str
    data_is_synthetic: bool


class Identity(_Frozen):
    """Identifiers of the study, present only where the user asked for them."""

    path: str
    patient_id: str
    study_instance_uid: str
    accession_number: str


class Acquisition(_Frozen):
    """How the images that were used were acquired, as headers and voxels say it; nothing that tells whose they are.

    Voxel sides are along (i, j, k) of the volume, those of diffusion as acquired. `intensity_variation` is standard
    deviation / mean of each channel, as in `TrainingRange`. What is not known is None or empty.
    """

    field_strength_t: float | None = None
    t2_spacing_mm: tuple[float, ...] = ()
    diffusion_spacing_mm: tuple[float, ...] = ()
    intensity_variation: tuple[float, ...] = ()


class ClassesAnswer(_Frozen):
    """What an answer says of several classes.

    `called` is the critical class where the decision is positive, else the most probable of the others.
    `probabilities` are those of all classes, in the model's order, with a sum of 1.
    """

    critical: str
    called: str
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]]


class LesionCandidate(_Frozen):
    """A place where the model sees a lesion; `number` counts from 1, the surest first.

    `position_mm` is its peak in the patient's coordinates (LPS), `probability` the one there, as the networks give it:
    the share of such candidates that are lesions is not known. `side` and `level` of the gland are None where nobody
    knows where the gland lies, and absent from the JSON then.
    """

    number: int = Field(ge=1)
    probability: float = Field(ge=0, le=1)
    position_mm: tuple[float, float, float]
    volume_mm3: float = Field(gt=0)
    side: Literal["left", "right", "both"] | None = Field(default=None, exclude_if=lambda side: side is None)
    level: Literal["base", "mid", "apex"] | None = Field(default=None, exclude_if=lambda level: level is None)


class AppliedLesionPoint(_Frozen):
    """The frozen threshold of the candidates that an answer tells: those whose confidence, a logit, is at least it.

    `sensitivity` is the share of the `lesions` validation lesions that it finds, with its 95 % interval, and
    `false_positives_per_case` what it tells besides, in `cases` validation cases. `threshold_probability` is
    sigmoid(threshold), of the kind of a candidate's `probability`.
    """

    target_sensitivity: float
    threshold: float
    threshold_probability: float
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    false_positives_per_case: float
    lesions: int
    cases: int


PlaceMm = tuple[float, float, float]
"""In the patient's coordinates, DICOM's LPS: towards the left, the back and the head."""


class CropPlace(_Frozen):
    """Around what the image of a model that looks for the gland was cropped.

    `gland`: its centre, the ends of the box along the patient's axes that holds it, and its volume, as the model found
    them. `centre`: the middle of T2, since the gland's place is doubtful; a warning says why.
    """

    around: Literal["gland", "centre"]
    centre_mm: PlaceMm | None = None
    low_mm: PlaceMm | None = None
    high_mm: PlaceMm | None = None
    volume_ml: float | None = None


class Prediction(_Frozen):
    """A study that was answered.

    `logit` is the mean of the members' logits (section 5.2 of the paper); `probability` is calibrated from it on the
    validation samples; `decision` compares it with the operating point's threshold. `b_values_computed` tells which of
    the model's b-values come from a fit instead of the scanner.

    Of several classes (`classes`, absent where there are two) the decision is about the critical one: a member's logit
    is the log-odds of that class against the others, and `logit` that of the mean logits of all classes.

    A model of lesions says where they are (`lesions`, none above `lesion_point` being an empty list; absent of other
    models); a member's logit is then the soft maximum of its map. The decision has a threshold of its own: a negative
    study may have candidates, and a positive one none.
    """

    schema_version: Literal["1.0", "1.1", "1.2", "1.3"] = "1.0"
    status: Literal["answered"] = "answered"
    notice: Literal["Research use only, not for diagnosis."] = "Research use only, not for diagnosis."
    study: Pseudonym
    probability: float = Field(ge=0, le=1)
    decision: Literal["positive", "negative"]
    logit: float
    logit_std: float = Field(ge=0)
    member_logits: tuple[float, ...]
    operating_point: AppliedOperatingPoint
    b_values_s_per_mm2: tuple[float, ...]
    b_values_acquired_s_per_mm2: tuple[float, ...]
    b_values_computed: tuple[bool, ...]
    series: tuple[UsedSeries, ...]
    warnings: tuple[QualityWarning, ...]
    model: ModelIdentity
    software: dict[str, str]
    source_sha256: Sha256 | None = None
    identity: Identity | None = None
    acquisition: Acquisition | None = Field(default=None, exclude_if=lambda acquisition: acquisition is None)
    classes: ClassesAnswer | None = Field(default=None, exclude_if=lambda classes: classes is None)
    lesions: tuple[LesionCandidate, ...] | None = Field(default=None, exclude_if=lambda lesions: lesions is None)
    lesion_point: AppliedLesionPoint | None = Field(default=None, exclude_if=lambda point: point is None)
    crop: CropPlace | None = Field(default=None, exclude_if=lambda crop: crop is None)

    @model_validator(mode="after")
    def _version_fits(self) -> Self:
        if (self.lesions is None) != (self.lesion_point is None) or (self.classes and self.lesion_point):
            raise ValueError("lesions must come with their lesion_point, and without classes")
        version = schema_version_for(self.classes, self.lesions, self.crop)
        if self.schema_version != version:
            raise ValueError(f"schema_version must be {version}, got {self.schema_version}")
        return self


def schema_version_for(
    classes: ClassesAnswer | None, lesions: tuple[LesionCandidate, ...] | None, crop: CropPlace | None = None
) -> Literal["1.0", "1.1", "1.2", "1.3"]:
    """Return the version of an answer's form: the least that has room for what it says."""
    if crop is not None:
        return GLAND_SCHEMA_VERSION
    if lesions is not None:
        return LESIONS_SCHEMA_VERSION
    return SCHEMA_VERSION if classes is None else CLASSES_SCHEMA_VERSION


class Refused(_Frozen):
    """A study that was not answered: a stable code (docs/dicom.md and docs/predict.md list them) and the reason.

    `study` is None where not even a Study Instance UID could be read.
    """

    schema_version: Literal["1.0"] = "1.0"
    status: Literal["refused"] = "refused"
    notice: Literal["Research use only, not for diagnosis."] = "Research use only, not for diagnosis."
    study: Pseudonym | None
    code: str
    reason: str
    series: tuple[UsedSeries, ...]
    model: ModelIdentity
    software: dict[str, str]
    source_sha256: Sha256 | None = None
    identity: Identity | None = None


Answer = Prediction | Refused
