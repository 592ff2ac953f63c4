"""Prostate158, training part: NIfTI volumes, and tables that name them.

Layout, as its archive unpacks: `train.csv` and `valid.csv` in SOURCE (`prostate158_train`), with the columns ID, t2,
adc, dwi, t2_anatomy_reader1, t2_tumor_reader1, adc_tumor_reader1 and those of reader 2; a value is the path of a file
below SOURCE, such as `train/001/t2.nii.gz`. Studies without a tumour name no mask, or the file `empty.nii.gz`:
therefore the masks are read, and what counts is whether one holds a tumour.

As masks are taken the tumours in ADC, or those in T2 where there are none in ADC, and the anatomy in T2, whose labels
together are the gland.

`dwi` is one image at a high b-value. `valid.csv` becomes the test split; the authors' own test part is not read.
"""

from pathlib import Path

from prostate_alm.data.cohorts.collection import Case, Collection, Row, read_table, usable
from prostate_alm.data.cohorts.image_files import AdcStudy, read_volume
from prostate_alm.data.cohorts.mask_files import MaskFile, MaskFiles
from prostate_alm.data.labels import Label
from prostate_alm.imaging.dicom import StudyRefused

TABLES = {"train.csv": "train", "valid.csv": "test"}
IMAGES = ("t2", "adc", "dwi")
READERS = {"adc_tumor_reader1": "adc", "t2_tumor_reader1": "t2"}
"""Masks of tumours, and what each was drawn on."""
ANATOMY = "t2_anatomy_reader1"
COLUMNS = ("ID", *IMAGES, *READERS)


def read_prostate158(source: Path, *, masks: bool = False) -> Collection:
    """Return the studies of Prostate158: T2, ADC and a high b-value; positive when a mask of reader 1 holds a tumour.

    Args:
        source: folder with `train.csv` and `valid.csv`.
        masks: of lesions and gland, too.

    Raises:
        ManifestError: a table is missing or is not the published one.
    """
    tables = {source / name: split for name, split in TABLES.items()}
    rows = [(split, row) for table, split in tables.items() for row in read_table(table, COLUMNS)]
    cases, refused = usable(rows, lambda pair: _case(pair[1], source, split=pair[0], with_masks=masks))
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


def _case(row: Row, source: Path, *, split: str, with_masks: bool) -> Case:
    number = row.text("ID")
    if not number.isdigit():
        raise row.refuse("bad_id", "ID must be a number", repr(number[:40]))
    study = f"{int(number):03d}"
    images = {column: _file(row, column, source, study=study) for column in IMAGES}
    drawn = {column: _file(row, column, source, study=study) for column in READERS if row.text(column)}
    tumours = [column for column, path in drawn.items() if _has_tumour(row, path, study=study)]
    masks = None
    if with_masks:
        lesions = MaskFile(drawn[tumours[0]], images[READERS[tumours[0]]], graded=True) if tumours else MaskFile(None)
        gland = MaskFile(_file(row, ANATOMY, source, study=study)) if row.text(ANATOMY) else None
        masks = MaskFiles(lesions, gland)
    volumes = AdcStudy(images["t2"], images["adc"], images["dwi"], masks=masks)
    return Case(Label(study, int(bool(tumours)), study, split), volumes, row.place)


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
