"""What a study that is used may be besides what it seems. See `golden_studies`."""

import re
from pathlib import Path

import pytest
from golden_studies import Cases, bent

DOCS = Path(__file__).resolve().parents[3] / "docs" / "dicom.md"
CASES = Cases()
case = CASES.case


@case("PS3.3 C.7.1.1: Patient's Sex (0010,0040)", warnings=("patient_not_male",), has_plain_voxels=True)
def _a_woman(b):
    return bent(b.study(), PatientSex="F")


@case("T2 and diffusion of different days", warnings=("different_days",), has_plain_voxels=True)
def _two_days(b):
    return b.series(2) + b.diffusion(3, AcquisitionDate="20240105")


@case("one session over midnight", has_plain_voxels=True)
def _over_midnight(b):
    t2 = b.series(2, AcquisitionDate="20240101", AcquisitionTime="235000")
    return t2 + b.diffusion(3, AcquisitionTime="001000")


@pytest.mark.parametrize("name", CASES)
def test_the_golden_table(build, written, plain_voxels, name):
    CASES[name].require(written(CASES[name].images(build)), plain_voxels)


def test_every_documented_warning_is_reached_by_a_case():
    section = DOCS.read_text(encoding="utf-8").split("## Warnings")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    cases = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_*.py")))
    told = {
        code for codes in re.findall(r'\bwarnings(?:=|": )\(([^)]*)\)', cases) for code in re.findall(r'"(\w+)"', codes)
    }
    assert set(documented) == told
