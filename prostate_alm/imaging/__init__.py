"""From scanner files to volumes on one grid: headers, selection of series, voxels."""

from prostate_alm.extras import require

require(__name__, "dicom")
