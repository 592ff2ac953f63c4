"""The concepts of the structured report: those of DICOM and SNOMED where they fit, private ones otherwise."""

import hashlib

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

PRIVATE = "99PROSTATEALM"


def private_scheme() -> CodingSchemeIdentificationItem:
    """Return what the private designator stands for."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE, name="Concepts of prostate-alm", version="1", responsible_organization="prostate-alm"
    )


def _code(value: str, scheme: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


# what was examined, by whom
TITLE = _code("report", PRIVATE, "Prostate MRI report of a model, research use only")
MEASUREMENT_REPORT = _code("126000", "DCM", "Imaging Measurement Report")
PROCEDURE = _code("719178004", "SCT", "Multiparametric MRI of prostate")
PROSTATE = _code("41216001", "SCT", "Prostate")
DEVICE = _code("121007", "DCM", "Device")
ARTIFICIAL_INTELLIGENCE = _code("123110", "DCM", "Artificial Intelligence")
CRITICAL_CLASS = _code("critical-class", PRIVATE, "Critical class of the model")

# lesions
ABNORMAL_STRUCTURE = _code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION = _code("52988006", "SCT", "Lesion")
VOLUME = _code("118565006", "SCT", "Volume")
MM3 = _code("mm3", "UCUM", "cubic millimeter")
COMMENT = _code("121106", "DCM", "Comment")
PEAK = _code("peak", PRIVATE, "Peak of the candidate in the patient's coordinates")
LEFT = _code("7771000", "SCT", "Left")
RIGHT = _code("24028007", "SCT", "Right")
BOTH_SIDES = _code("51440002", "SCT", "Bilateral")
BASE = _code("57195005", "SCT", "Basal")
MIDDLE = _code("C25569", "NCIt", "Middle")
APEX = _code("43674008", "SCT", "Apical")

# images made from images
SOURCE_IMAGE = _code("121322", "DCM", "Source image for image processing operation")
SEGMENTED = _code("113076", "DCM", "Segmentation")
CALCULATED = _code("112187", "DCM", "Unspecified method of calculation")

# images
IMAGE_LIBRARY = _code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = _code("126200", "DCM", "Image Library Group")
GROUP_NAME = _code("images", PRIVATE, "Images")
SOURCE = _code("260753009", "SCT", "Source")
B_VALUE = _code("113240", "DCM", "Source image diffusion b-value")

# numbers
PROBABILITY = _code("122157", "DCM", "Probability")
LOGIT = _code("logit", PRIVATE, "Logit of the ensemble's members")
MEAN = _code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = _code("386136009", "SCT", "Standard Deviation")
MINIMUM = _code("255605001", "SCT", "Minimum")
MAXIMUM = _code("56851009", "SCT", "Maximum")
THRESHOLD = _code("122411", "DCM", "Threshold Value")
THRESHOLD_LOGIT = _code("threshold-logit", PRIVATE, "Threshold of the mean logit")
TARGET_SENSITIVITY = _code("target-tpr", PRIVATE, "Target sensitivity of the operating point")
SHARE = _code("1", "UCUM", "0 to 1")
LOG_ODDS = _code("{logit}", "UCUM", "log odds")
SALIENCY = _code("saliency", PRIVATE, "Change of the logit by a part of the image")
LOG_ODDS_PER_CM3 = _code("{logit}/cm3", "UCUM", "log odds per cm3")
S_PER_MM2 = _code("s/mm2", "UCUM", "s/mm2")

# judgements
STATUS = _code("status", PRIVATE, "Status of the analysis")
SUCCEEDED = _code("111222", "DCM", "Succeeded")
NOT_ATTEMPTED = _code("111225", "DCM", "Not Attempted")
DECISION = _code("decision", PRIVATE, "Decision at the operating point")
POSITIVE = _code("10828004", "SCT", "Positive")
NEGATIVE = _code("260385009", "SCT", "Negative")
QUALITY = _code("quality", PRIVATE, "Reasons to distrust the answer")
NONE_FOUND = _code("none-found", PRIVATE, "None found")
FOUND = _code("found", PRIVATE, "Found, see the warnings")
CLASS_CALLED = _code("class-called", PRIVATE, "Class called at the operating point")

# text
SUMMARY = _code("121111", "DCM", "Summary")
NOTICE = _code("notice", PRIVATE, "Notice")
WARNING = _code("warning", PRIVATE, "Quality warning")
OPERATING_POINT = _code("operating-point", PRIVATE, "Operating point")
MEMBER_LOGITS = _code("member-logits", PRIVATE, "Logit of each member")
B_VALUES = _code("b-values", PRIVATE, "b-values")
CRITICAL_CLASS_NAME = _code("critical-name", PRIVATE, "Name of the critical class")
REFUSAL_CODE = _code("refusal-code", PRIVATE, "Code of the refusal")
REFUSAL_REASON = _code("refusal-reason", PRIVATE, "Reason of the refusal")


def class_concept(name: str) -> CodedConcept:
    """Return a class of the model as a concept; its value is of the name, whatever letters that has.

    Args:
        name: up to 64 characters of ASCII.

    >>> class_concept("equivocal").value
    'class-7cf25c9d'
    """
    return _code(f"class-{hashlib.sha256(name.encode()).hexdigest()[:8]}", PRIVATE, name)


def probability_of(name: str) -> CodedConcept:
    """Return the concept of the probability of a class of the model."""
    return _code(f"p-{class_concept(name).value}", PRIVATE, f"Probability of {name}"[:64])
