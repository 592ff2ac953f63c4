"""PROSTATEx: DICOM from The Cancer Imaging Archive, and the table of findings of its training part.

Layout, as the archive's downloader writes it: `ProstateX-0001/<study>/<series>/<image>.dcm`, in SOURCE or one folder
below. The table is `ProstateX-Findings-Train.csv`: one row a finding, with ProxID, fid, pos, zone, ClinSig.

A few patients have two studies, and the table does not say which one a finding was seen in: they are refused
(`several_studies`). The test part has no published labels: its folders are left out.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_alm.data.cohorts.collection import Case, Collection, Row, find_table, read_table, study_folders, usable
from prostate_alm.data.convert import DicomStudy
from prostate_alm.data.labels import Label
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2

FINDINGS = "ProstateX-Findings-Train.csv"
COLUMNS = ("ProxID", "fid", "pos", "zone", "ClinSig")


@dataclass(frozen=True, slots=True)
class _LesionRow:
    patient: str
    key: tuple[str, str]  # number and position: the table repeats some findings
    is_significant: bool
    row: Row


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
    findings, refused = usable(read_table(table, COLUMNS), _finding)
    by_patient: dict[str, list[_LesionRow]] = defaultdict(list)
    for finding in findings:
        by_patient[finding.patient].append(finding)
    cases, more = usable(by_patient.values(), lambda group: _case(group, folders))
    return Collection(
        folder=source,
        cases=tuple(cases),
        refused=(*refused, *more),
        unlabelled=tuple(sorted(set(folders) - set(by_patient) - {one.id for one in refused})),
        tables=(table,),
        source="PROSTATEx, The Cancer Imaging Archive, doi 10.7937/K9TCIA.2017.MURS5CL",
        label_definition="1 = a finding of the patient is clinically significant (ClinSig TRUE), 0 = none is",
        licence="CC BY 3.0",
    )


def _finding(row: Row) -> _LesionRow:
    patient = row.identifier("ProxID")
    is_significant = row.one_of("ClinSig", {"TRUE": True, "FALSE": False}, study=patient)
    return _LesionRow(patient, (row.text("fid"), row.text("pos")), is_significant, row)


def _case(findings: Sequence[_LesionRow], folders: Mapping[str, Path]) -> Case:
    first = findings[0]
    seen: dict[tuple[str, str], _LesionRow] = {}
    for one in findings:
        if seen.setdefault(one.key, one).is_significant != one.is_significant:
            raise one.row.refuse(
                "contradictory_labels",
                "a finding must have one ClinSig",
                f"another than in {seen[one.key].row.place}",
                study=one.patient,
            )
    if first.patient not in folders:
        raise first.row.refuse("no_images", "ProxID must be a folder of SOURCE", first.patient, study=first.patient)
    label = int(any(one.is_significant for one in findings))
    return Case(
        Label(first.patient, label, first.patient, None),
        DicomStudy(folders[first.patient], MODEL_B_VALUES_S_PER_MM2),
        first.row.place,
    )
