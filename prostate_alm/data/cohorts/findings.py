"""PROSTATEx and fastMRI prostate: DICOM as published, and tables of several rows a patient: its findings, or slices.

PROSTATEx. Layout, as the downloader of The Cancer Imaging Archive writes it:
`ProstateX-0001/<study>/<series>/<image>.dcm`, in SOURCE or one folder below. The table is
`ProstateX-Findings-Train.csv`: one row a finding, with ProxID, fid, pos, zone, ClinSig. A few patients have two
studies, and the table does not say which one a finding was seen in: they are refused (`several_studies`). The test part
has no published labels: its folders are left out.

fastMRI prostate. Layout: one folder a patient, `001` ... `312`, in SOURCE or one folder below (`DICOMS`), with a folder
for each series: AX_T2, AX_DIFFUSION_ADC, AX_DIFFUSION_CALC_BVAL and, by the account of users of the release,
AX_DIFFUSION_TRACEW with b 50 and 1000. Their names do not matter, since the headers decide (docs/dicom.md). A patient
without acquired trace images is refused (`no_diffusion`): the ADC map and the computed image alone do not give the
b-values of the model. The tables are `t2_slice_level_labels.csv` and `dwi_slice_level_labels.csv` of the authors'
repository: fastmri_pt_id, slice, PIRADS (1 to 5), fastmri_rawfile, data_split (training, validation, test), folder.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_alm.data.cohorts.collection import Case, Collection, Row, find_table, read_table, study_folders, usable
from prostate_alm.data.convert import DicomStudy
from prostate_alm.data.labels import Label
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2

FINDINGS, FINDING_COLUMNS = "ProstateX-Findings-Train.csv", ("ProxID", "fid", "pos", "zone", "ClinSig")
SLICES = ("t2_slice_level_labels.csv", "dwi_slice_level_labels.csv")
SLICE_COLUMNS = ("fastmri_pt_id", "slice", "PIRADS", "data_split")
PIRADS_POSITIVE = 3
"""The lowest score that counts as positive, as in the authors' own classifier."""

_SPLITS = {"TRAINING": "train", "VALIDATION": "train", "TEST": "test"}  # members draw their own validation part


@dataclass(frozen=True, slots=True)
class _PatientRow:
    patient: str
    key: tuple[str, str]  # number and position, for some rows are there twice; or table and slice
    value: int  # whether it is significant, or its score
    row: Row
    split: str | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """The least value of a positive patient; what a contradiction and an absent folder are told as."""

    positive: int
    one_value: str
    has_folder: str
    no_folder: str


def read_prostatex(source: Path, *, labels: Path | None = None) -> Collection:
    """Return the studies of PROSTATEx: positive when a finding of the patient is clinically significant.

    Args:
        source: folder that holds the patients' folders.
        labels: the table of findings; looked for in `source` and up to two levels below when None.

    Raises:
        ManifestError: there is no folder of a patient, or no usable table.
    """
    table = labels or find_table(source, FINDINGS)
    folders = study_folders(source, "ProstateX-[0-9]*")
    rules = _Told(1, "a finding must have one ClinSig", "ProxID must be a folder of SOURCE", "{}")
    return Collection(
        folder=source,
        **_cases(read_table(table, FINDING_COLUMNS), _finding, folders, rules=rules),
        tables=(table,),
        source="PROSTATEx, The Cancer Imaging Archive, doi 10.7937/K9TCIA.2017.MURS5CL",
        label_definition="1 = a finding of the patient is clinically significant (ClinSig TRUE), 0 = none is",
        licence="CC BY 3.0",
    )


def read_fastmri(source: Path, *, labels: Path | None = None) -> Collection:
    """Return the studies of fastMRI prostate: positive when the highest score of a slice is `PIRADS_POSITIVE` or more.

    Args:
        source: folder that holds the patients' folders, or a folder with these.
        labels: folder of the two tables; they are looked for in `source` and up to two levels below when None.

    Raises:
        ManifestError: there is no folder of a patient, or no usable table.
    """
    tables = [labels / name if labels else find_table(source, name) for name in SLICES]
    folders = study_folders(source, "[0-9][0-9][0-9]")
    rows = [(table.name, row) for table in tables for row in read_table(table, SLICE_COLUMNS)]
    rules = _Told(PIRADS_POSITIVE, "a slice must have one PIRADS", "a patient must have a folder", "no {}")
    return Collection(
        folder=source,
        **_cases(rows, _slice, folders, rules=rules),
        tables=tuple(tables),
        source="fastMRI prostate, fastmri.med.nyu.edu, doi 10.1038/s41597-024-03252-w",
        label_definition=f"1 = highest PI-RADS score of a slice, T2 or diffusion, is {PIRADS_POSITIVE} or more",
        licence="fastMRI Dataset Sharing Agreement: no redistribution",
    )


def _finding(row: Row) -> _PatientRow:
    patient = row.identifier("ProxID")
    is_significant = row.one_of("ClinSig", {"TRUE": 1, "FALSE": 0}, study=patient)
    return _PatientRow(patient, (row.text("fid"), row.text("pos")), is_significant, row)


def _slice(of_table: tuple[str, Row]) -> _PatientRow:
    table, row = of_table
    number = row.text("fastmri_pt_id")
    if not number.isdigit():
        raise row.refuse("bad_id", "fastmri_pt_id must be a number", repr(number))
    patient = f"{int(number):03d}"
    pirads = row.one_of("PIRADS", {str(score): score for score in range(1, 6)}, study=patient)
    split = row.one_of("data_split", _SPLITS, study=patient)
    return _PatientRow(patient, (table, row.text("slice")), pirads, row, split)


def _cases(
    rows: Iterable[Any], read: Callable[[Any], _PatientRow], folders: Mapping[str, Path], *, rules: _Told
) -> dict[str, Any]:
    """Return the cases of a collection, what is refused, and the folders without a row."""
    findings, refused = usable(rows, read)
    by_patient: dict[str, list[_PatientRow]] = defaultdict(list)
    for finding in findings:
        by_patient[finding.patient].append(finding)
    cases, more = usable(by_patient.values(), lambda group: _case(group, folders, rules))
    unlabelled = sorted(set(folders) - set(by_patient) - {one.id for one in refused})
    return {"cases": tuple(cases), "refused": (*refused, *more), "unlabelled": tuple(unlabelled)}


def _case(findings: Sequence[_PatientRow], folders: Mapping[str, Path], rules: _Told) -> Case:
    first = findings[0]
    seen: dict[tuple[str, str], _PatientRow] = {}
    for one in findings:
        if seen.setdefault(one.key, one).value != one.value:
            found = f"another than in {seen[one.key].row.place}"
            raise one.row.refuse("contradictory_labels", rules.one_value, found, study=one.patient)
        if one.split != first.split:
            found = f"another than in {first.row.place}"
            raise one.row.refuse("two_splits", "a patient must lie in one split", found, study=one.patient)
    if first.patient not in folders:
        found = rules.no_folder.format(first.patient)
        raise first.row.refuse("no_images", rules.has_folder, found, study=first.patient)
    label = int(max(one.value for one in findings) >= rules.positive)
    return Case(
        Label(first.patient, label, first.patient, first.split),
        DicomStudy(folders[first.patient], MODEL_B_VALUES_S_PER_MM2),
        first.row.place,
    )
