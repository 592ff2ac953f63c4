"""PI-CAI, Public Training and Development Dataset: MetaImage volumes, and the marksheet of its labels.

Layout, as its archives unpack: `<patient>/<patient>_<study>_{t2w,adc,hbv,sag,cor}.mha`, in SOURCE or one folder below
(`picai_public_images_fold0` ... `fold4`). The table is `marksheet.csv` of the repository of its labels; read are
patient_id, study_id, case_csPCa (YES or NO) and, where it is there, case_ISUP. Earlier marksheets without case_csPCa
are refused: Gleason scores of lesions, as they have them, are not the label of the challenge.

A patient's studies may have different labels: each was annotated with the findings of its own time.

Masks are those of the repository of the labels, in the folder of the table or the one above:
`csPCa_lesion_delineations/human_expert/resampled/<patient>_<study>.nii.gz`, on T2, labels 2 to 5 the ISUP grade;
`csPCa_lesion_delineations/AI/Bosma22a/`, label 1; `anatomical_delineations/whole_gland/AI/Bosma22b/`. Of 425 positive
studies 220 were outlined by a human.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prostate_alm.data.cohorts.collection import Case, Collection, Row, find_table, read_table, study_folders, usable
from prostate_alm.data.cohorts.image_files import AdcStudy
from prostate_alm.data.cohorts.mask_files import MaskFile, MaskFiles
from prostate_alm.data.labels import Label
from prostate_alm.data.manifest import ManifestError

Annotators = Literal["human", "ai"]

MARKSHEET = "marksheet.csv"
COLUMNS = ("patient_id", "study_id", "case_csPCa")
_FIRST_SIGNIFICANT_ISUP = 2
_LESIONS = "csPCa_lesion_delineations"
_HUMAN, _AI = f"{_LESIONS}/human_expert/resampled", f"{_LESIONS}/AI/Bosma22a"
_GLAND = "anatomical_delineations/whole_gland/AI/Bosma22b"


def read_picai(source: Path, *, labels: Path | None = None, masks: Annotators | None = None) -> Collection:
    """Return the studies of PI-CAI: T2, ADC and a high b-value; positive when `case_csPCa` says so.

    Args:
        source: folder that holds the patients' folders, or folders of these.
        labels: the marksheet; looked for in `source` and up to two levels below when None.
        masks: whose lesions: `human`, or `ai` where no human outlined any; the gland is always a network's. No masks
            when None.

    Raises:
        ManifestError: there is no folder of a patient, no usable table, or no folder of masks beside it.
    """
    table = labels or find_table(source, MARKSHEET)
    folders = study_folders(source, "[0-9]*")
    of_masks = masks and _masks_folder(table)
    cases, refused = usable(read_table(table, COLUMNS), lambda row: _case(row, folders, of_masks, masks))
    labelled = {case.label.id for case in cases} | {one.id for one in refused}
    found = {path.name.removesuffix("_t2w.mha") for folder in folders.values() for path in folder.glob("*_t2w.mha")}
    return Collection(
        folder=source,
        cases=tuple(cases),
        refused=tuple(refused),
        unlabelled=tuple(sorted(found - labelled)),
        tables=(table,),
        source="PI-CAI Public Training and Development Dataset, doi 10.5281/zenodo.6624726",
        label_definition="1 = clinically significant cancer, ISUP grade 2 or higher (case_csPCa YES), 0 = none",
        licence="CC BY-NC 4.0",
    )


def _masks_folder(table: Path) -> Path:
    for folder in (table.parent, table.resolve().parent.parent):
        if (folder / _LESIONS).is_dir():
            return folder
    raise ManifestError(
        f"the folder {_LESIONS} must lie beside the marksheet or one level above, got neither at {table.parent}. "
        "Clone the repository of the labels, and give its clinical_information/marksheet.csv with --labels."
    )


def _masks(folder: Path, study: str, annotators: Annotators) -> MaskFiles | None:
    """Return the masks of a study as far as there are any; those of a human first."""
    places = (_HUMAN,) if annotators == "human" else (_HUMAN, _AI)
    lesions = [path for place in places if (path := folder / place / f"{study}.nii.gz").is_file()]
    gland = folder / _GLAND / f"{study}.nii.gz"
    if not lesions and not gland.is_file():
        return None
    return MaskFiles(
        lesions=MaskFile(lesions[0], graded=True) if lesions else None,
        gland=MaskFile(gland) if gland.is_file() else None,
    )


def _case(row: Row, folders: Mapping[str, Path], of_masks: Path | None, annotators: Annotators | None) -> Case:
    patient = row.identifier("patient_id")
    study = f"{patient}_{row.identifier('study_id')}"
    label = row.one_of("case_csPCa", {"YES": 1, "NO": 0}, study=study)
    _require_agreement(row, label, study)
    if patient not in folders:
        raise row.refuse("no_images", "patient_id must be a folder of SOURCE", patient, study=study)
    files = {kind: folders[patient] / f"{study}_{kind}.mha" for kind in ("t2w", "adc", "hbv")}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise row.refuse("no_images", "a study must have its t2w, adc and hbv", f"no {missing[0]}", study=study)
    masks = _masks(of_masks, study, annotators) if of_masks and annotators else None
    source = AdcStudy(files["t2w"], files["adc"], files["hbv"], masks=masks)
    return Case(Label(study, label, patient, None), source, row.place)


def _require_agreement(row: Row, label: int, study: str) -> None:
    isup = row.text("case_ISUP")
    if isup and (not isup.isdigit() or int(int(isup) >= _FIRST_SIGNIFICANT_ISUP) != label):
        raise row.refuse(
            "contradictory_labels",
            f"case_csPCa must be YES for a case_ISUP of {_FIRST_SIGNIFICANT_ISUP} or more, and NO below",
            f"case_ISUP {isup!r}",
            study=study,
        )
