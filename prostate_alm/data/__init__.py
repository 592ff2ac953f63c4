"""Cohorts: manifests, splits by patient, and what happens to a volume before the network sees it."""

from prostate_alm.extras import require

require(__name__, "dicom")
