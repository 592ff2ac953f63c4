"""A synthetic cohort of prostate MRI, written as the scanners of several vendors write DICOM."""

from prostate_alm.extras import require

require(__name__, "dicom")
