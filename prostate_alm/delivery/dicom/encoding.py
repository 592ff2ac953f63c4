"""A DICOM object as the content of a file."""

import warnings
from io import BytesIO

from pydicom.dataset import Dataset


def encoded(made: Dataset) -> bytes:
    """Return an object as the bytes of a DICOM file.

    Args:
        made: a data set with its file meta information; it is not modified.

    Raises:
        ValueError: a required element of the meta information is missing.

    Reference:
        DICOM PS3.10, section 7.
    """
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on odd values that the images have and their report repeats
        made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
