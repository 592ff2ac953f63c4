"""Prostate158, training part: NIfTI volumes, and tables that name them.

Layout, as its archive unpacks: `train.csv` and `valid.csv` in SOURCE (`prostate158_train`), with the columns ID, t2,
adc, dwi, t2_anatomy_reader1, t2_tumor_reader1, adc_tumor_reader1 and those of reader 2; a value is the path of a file
below SOURCE, such as `train/001/t2.nii.gz`. Studies without a tumour name no mask, or the file `empty.nii.gz`:
therefore the masks are read, and what counts is whether one holds a tumour.

`dwi` is one image at a high b-value. `valid.csv` becomes the test split; the authors' own test part is not read.
"""

from pathlib import Path

from prostate_alm.data.cohorts.collection import Case, Collection
from prostate_alm.data.cohorts.image_files import AdcStudy, read_volume
from prostate_alm.data.cohorts.table import Row, read_table, usable
from prostate_alm.data.labels import Label
from prostate_alm.imaging.dicom import StudyRefused

TABLES = {"train.csv": "train", "valid.csv": "test"}
IMAGES = ("t2", "adc", "dwi")
READERS = ("t2_tumor_reader1", "adc_tumor_reader1")
COLUMNS = ("ID", *IMAGES, *READERS)


def read_prostate158(source: Path) -> Collection:
    """Return the studies of Prostate158: T2, ADC and a high b-value; positive when a mask of reader 1 holds a tumour.

    Args:
        source: folder with `train.csv` and `valid.csv`.

    Raises:
        ManifestError: a table is missing or is not the published one.
    """
    tables = {source / name: split for name, split in TABLES.items()}
    rows = [(split, row) for table, split in tables.items() for row in read_table(table, COLUMNS)]
    cases, refused = usable(rows, lambda pair: _case(pair[1], source, split=pair[0]))
    labelled = {case.label.id for case in cases} | {one.id for one in refused}
    found = {path.parent.name for path in source.glob("train/*/t2.nii.gz")}
    return Collection(
        folder=source,
        cases=tuple(cases),
        refused=tuple(refused),
        unlabelled=tuple(sorted(found - labelled)),
        tables=tuple(tables),
        source="Prostate158, training part, doi 10.5281/zenodo.6481141",
        label_definition="1 = reader 1 outlined a tumour (PI-RADS 4 or 5) in T2 or ADC, 0 = none",
        licence="see the record, doi 10.5281/zenodo.6481141",
    )


def _case(row: Row, source: Path, *, split: str) -> Case:
    number = row.text("ID")
    if not number.isdigit():
        raise row.refuse("bad_id", "ID must be a number", repr(number[:40]))
    study = f"{int(number):03d}"
    t2, adc, dwi = (_file(row, column, source, study=study) for column in IMAGES)
    masks = [_file(row, column, source, study=study) for column in READERS if row.text(column)]
    has_tumour = any(_has_tumour(row, path, study=study) for path in masks)
    return Case(Label(study, int(has_tumour), study, split), AdcStudy(t2, adc, dwi), row.place)


def _file(row: Row, column: str, source: Path, *, study: str) -> Path:
    name = Path(row.text(column))
    path = source / name
    if not name.name or name.is_absolute() or ".." in name.parts or not path.is_file():
        found = repr(row.text(column)) if row.text(column) else "nothing"
        raise row.refuse("no_images", f"{column} must be a file below SOURCE", found, study=study)
    return path


def _has_tumour(row: Row, mask: Path, *, study: str) -> bool:
    try:
        return bool((read_volume(mask).voxels > 0).any())
    except StudyRefused as error:
        raise row.refuse(error.code, "a mask must be readable", mask.name, study=study) from error
