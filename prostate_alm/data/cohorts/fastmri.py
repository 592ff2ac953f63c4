"""fastMRI prostate: the DICOM release, and the PI-RADS scores of its slices.

Layout: one folder a patient, `001` ... `312`, in SOURCE or one folder below (`DICOMS`), with a folder for each series:
AX_T2, AX_DIFFUSION_ADC, AX_DIFFUSION_CALC_BVAL and, by the account of users of the release, AX_DIFFUSION_TRACEW with
b 50 and 1000. Their names do not matter, since the headers decide (docs/dicom.md). A patient without acquired trace
images is refused (`no_diffusion`): the ADC map and the computed image alone do not give the b-values of the model.

The tables are `t2_slice_level_labels.csv` and `dwi_slice_level_labels.csv` of the authors' repository: fastmri_pt_id,
slice, PIRADS (1 to 5), fastmri_rawfile, data_split (training, validation, test), folder.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_alm.data.cohorts.collection import Case, Collection, Row, find_table, read_table, study_folders, usable
from prostate_alm.data.convert import DicomStudy
from prostate_alm.data.labels import Label
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2

TABLES = ("t2_slice_level_labels.csv", "dwi_slice_level_labels.csv")
COLUMNS = ("fastmri_pt_id", "slice", "PIRADS", "data_split")
PIRADS_POSITIVE = 3
"""The lowest score that counts as positive, as in the authors' own classifier."""

_SPLITS = {"TRAINING": "train", "VALIDATION": "train", "TEST": "test"}  # members draw their own validation part


@dataclass(frozen=True, slots=True)
class _Slice:
    patient: str
    key: tuple[str, str]  # table and slice
    pirads: int
    split: str
    row: Row


def read_fastmri(source: Path, *, labels: Path | None = None) -> Collection:
    """Return the studies of fastMRI prostate: positive when the highest score of a slice is `PIRADS_POSITIVE` or more.

    Args:
        source: folder that holds the patients' folders, or a folder with these.
        labels: folder of the two tables; they are looked for in `source` and up to two levels below when None.

    Raises:
        ManifestError: there is no folder of a patient, or no usable table.
    """
    tables = [labels / name if labels else find_table(source, name) for name in TABLES]
    folders = study_folders(source, "[0-9][0-9][0-9]")
    rows = [(table.name, row) for table in tables for row in read_table(table, COLUMNS)]
    slices, refused = usable(rows, lambda pair: _slice(*pair))
    by_patient: dict[str, list[_Slice]] = defaultdict(list)
    for one in slices:
        by_patient[one.patient].append(one)
    cases, more = usable(by_patient.values(), lambda group: _case(group, folders))
    return Collection(
        folder=source,
        cases=tuple(cases),
        refused=(*refused, *more),
        unlabelled=tuple(sorted(set(folders) - set(by_patient) - {one.id for one in refused})),
        tables=tuple(tables),
        source="fastMRI prostate, fastmri.med.nyu.edu, doi 10.1038/s41597-024-03252-w",
        label_definition=f"1 = highest PI-RADS score of a slice, T2 or diffusion, is {PIRADS_POSITIVE} or more",
        licence="fastMRI Dataset Sharing Agreement: no redistribution",
    )


def _slice(table: str, row: Row) -> _Slice:
    number = row.text("fastmri_pt_id")
    if not number.isdigit():
        raise row.refuse("bad_id", "fastmri_pt_id must be a number", repr(number))
    patient = f"{int(number):03d}"
    pirads = row.one_of("PIRADS", {str(score): score for score in range(1, 6)}, study=patient)
    split = row.one_of("data_split", _SPLITS, study=patient)
    return _Slice(patient, (table, row.text("slice")), pirads, split, row)


def _case(slices: Sequence[_Slice], folders: Mapping[str, Path]) -> Case:
    first = slices[0]
    seen: dict[tuple[str, str], _Slice] = {}
    for one in slices:
        if seen.setdefault(one.key, one).pirads != one.pirads:
            place = seen[one.key].row.place
            raise one.row.refuse(
                "contradictory_labels", "a slice must have one PIRADS", f"another than in {place}", study=one.patient
            )
        if one.split != first.split:
            raise one.row.refuse(
                "two_splits", "a patient must lie in one split", f"another than in {first.row.place}", study=one.patient
            )
    if first.patient not in folders:
        raise first.row.refuse("no_images", "a patient must have a folder", f"no {first.patient}", study=first.patient)
    label = int(max(one.pirads for one in slices) >= PIRADS_POSITIVE)
    return Case(
        Label(first.patient, label, first.patient, first.split),
        DicomStudy(folders[first.patient], MODEL_B_VALUES_S_PER_MM2),
        first.row.place,
    )
