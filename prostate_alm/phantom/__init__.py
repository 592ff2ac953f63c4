"""A synthetic cohort of prostate MRI, written as the scanners of several vendors write DICOM."""
