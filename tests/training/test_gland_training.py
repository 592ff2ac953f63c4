"""What a localiser of the gland is trained on: which studies, on which grid, and what is left alone."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prostate_alm.data.manifest import read_manifest, write_manifest
from prostate_alm.training.gland_training import ReadCoarse, prepare_localiser

SPACING_MM, SIZE = 4.0, (32, 32, 20)


def prepared(manifest: Path, folder: Path, **changes: Any) -> Any:
    given = {"recipe": None, "seed": 0, "threads": 1, "overwrite": False, "output_dir": str(folder / "out")}
    return prepare_localiser(dataset_dir=str(folder), manifest=str(manifest), **given | changes)


def test_a_fifth_of_the_training_patients_validate_and_test_studies_stay_apart(
    lesion_cohort: Path, tmp_path: Path
) -> None:
    studies = {study.id: study for study in read_manifest(lesion_cohort).studies}
    found = prepared(lesion_cohort, tmp_path)
    train, validation, test = (
        {one["sample_id"] for one in part} for part in (found.train, found.validation, found.test)
    )
    of_training = {key for key, study in studies.items() if study.split == "train"}
    assert (train | validation, train & validation) == (of_training, set())
    assert test == studies.keys() - of_training
    assert len(validation) == round(0.2 * len(of_training))  # a study a patient
    assert prepared(lesion_cohort, tmp_path, seed=1).validation != found.validation
    assert not (tmp_path / "out").exists()


def test_the_label_covers_the_volume_of_the_gland_around_its_centre(lesion_cohort: Path, tmp_path: Path) -> None:
    sample = prepared(lesion_cohort, tmp_path).train[0]
    read = ReadCoarse(SPACING_MM, SIZE)(sample)
    assert read["image"].shape == read["label"].shape == (1, *SIZE)
    mask: Any = nib.load(sample["gland"])
    volume_mm3 = float(np.asarray(mask.dataobj).sum() * abs(np.linalg.det(mask.affine[:3, :3])))
    assert float(read["label"].sum()) * SPACING_MM**3 == pytest.approx(volume_mm3, rel=0.15)


def test_a_localiser_is_not_replaced_unasked(lesion_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "localiser.json").write_text("{}")
    with pytest.raises(ValueError, match="output_dir must hold no localiser, got one in "):
        prepared(lesion_cohort, tmp_path)
    assert prepared(lesion_cohort, tmp_path, overwrite=True).train


def test_a_cohort_without_glands_is_refused(lesion_cohort: Path, tmp_path: Path) -> None:
    manifest = read_manifest(lesion_cohort)
    undrawn = tuple(study.model_copy(update={"gland": None}) for study in manifest.studies)
    path = lesion_cohort.with_name("no-glands.json")
    write_manifest(manifest.model_copy(update={"studies": undrawn}), path)
    with pytest.raises(ValueError, match="training patients whose gland was drawn, three or more, got 0 in no-glands"):
        prepared(path, tmp_path)
