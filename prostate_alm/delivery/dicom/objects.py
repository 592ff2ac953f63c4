"""What the objects that go back into a study share: identifiers, equipment, patient and study, plain text, bytes."""

from __future__ import annotations

import unicodedata
import uuid
import warnings
from datetime import datetime
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from prostate_alm import __version__
from prostate_alm.delivery.dicom.evidence import PRODUCT, Evidence
from prostate_alm.delivery.prediction import ModelIdentity

LONG_STRING = 64
"""Characters in a value of VR LO."""

_NAMESPACE = uuid.UUID("0b9d4c8e-6f1e-5f0a-9a56-3f6f5a3d1c27")
_SPELLED = str.maketrans(
    {"²": "2", "³": "3", "°": " deg", "µ": "u", "μ": "u", "λ": "lambda", "≥": ">=", "≤": "<=", "±": "+/-", "×": "x",
     "–": "-", "—": "-", "−": "-", "’": "'", "“": '"', "”": '"', "…": "...", "\\": "/"}
)  # fmt: skip


def new_uid(*parts: str) -> UID:
    """Return the identifier that always belongs to these parts.

    2.25.n, n being the version-5 UUID of the parts as a number.

    Args:
        parts: what tells objects apart.

    Reference:
        DICOM PS3.5 B.2; RFC 9562 section 5.5.

    >>> new_uid("study", "model") == new_uid("study", "model") != new_uid("study", "other model")
    True
    """
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}")


def plain_text(text: str, limit: int | None = None) -> str:
    r"""Return text that every character set of DICOM holds: ASCII of one line without a backslash.

    The images' own character set stays that of the patient's name, so what is added must fit into any.

    Args:
        text: anything.
        limit: characters at most; a longer text is cut, its end marked with three dots.

    >>> plain_text("b 100, 600 s/mm² (≥ 2), Müller\n"), plain_text("0123456789", 8)
    ('b 100, 600 s/mm2 (>= 2), Muller', '01234...')
    """
    bare = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    letters = "".join(one for one in bare if not unicodedata.combining(one))
    spaced = "".join(one if one.isprintable() else " " for one in letters.encode("ascii", errors="replace").decode())
    line = " ".join(spaced.split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 3]}..."


def equipment(model: ModelIdentity) -> dict[str, Any]:
    """Return what made an object: the program, the packed model and its hash, as arguments of highdicom."""
    return {
        "manufacturer": PRODUCT,
        "manufacturer_model_name": plain_text(model.name, LONG_STRING),
        "software_versions": [f"{PRODUCT} {__version__}", plain_text(f"model {model.version}", LONG_STRING)],
        "device_serial_number": model.sha256[:LONG_STRING],
    }


def take_over_study(made: Dataset, evidence: Evidence, *, created_at: datetime) -> None:
    """Give a new object the patient and the study of its images and the moment it was made, in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a character set that nobody knows: it is the images' own
        for element in evidence.study:
            made.add(element)
    made.InstanceCreationDate = f"{created_at:%Y%m%d}"
    made.InstanceCreationTime = f"{created_at:%H%M%S}"
    for library in made.get("ContributingEquipmentSequence", ()):  # highdicom signs with its own clock
        library.ContributionDateTime = f"{created_at:%Y%m%d%H%M%S}"


def fix_what_is_drawn(made: Dataset, dimensions_uid: UID, *, created_at: datetime) -> None:
    """Replace the clock and the random identifiers that highdicom gives a multi-frame object, in place."""
    made.ContentDate, made.ContentTime = f"{created_at:%Y%m%d}", f"{created_at:%H%M%S}"
    for one in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        one.DimensionOrganizationUID = dimensions_uid


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
