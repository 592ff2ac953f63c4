"""A crop around the gland is that of the same anatomy wherever T2 has it; doubt leaves the middle."""

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, Orientationd, ResizeWithPadOrCropd, Spacingd

from prostate_alm.data.lesion_maps import CropLesions
from prostate_alm.training.cohort_member import CohortSettings
from prostate_alm.training.gland_crop import CropToGland
from prostate_alm.training.gland_localiser import SPEC, WEIGHTS, localiser_of

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs

KEYS, SIZE = ["t2", "lesions"], (20, 20, 10)
ORDER = np.diag([-1.0, 1.0, 3.0, 1.0])  # to the right, to the front, to the head: turned by Orientationd


@pytest.fixture
def body() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a T2 with noise everywhere, a gland and two lesions in it, (120, 110, 16) voxels."""
    t2 = np.random.default_rng(0).normal(100, 20, (120, 110, 16)).astype(np.float32)
    gland, lesions = (np.zeros(t2.shape, np.uint8) for _ in range(2))
    gland[50:75, 45:65, 3:13] = 1
    lesions[55:60, 50:55, 5:7], lesions[87:93, 50:55, 5:7] = 1, 2
    return t2, gland, lesions


def written(folder: Path, body: tuple[np.ndarray, ...], window: tuple[slice, ...]) -> dict[str, str]:
    """Return a sample whose files hold a window of the body, each voxel at its own place."""
    affine = ORDER.copy()
    affine[:3, 3] = ORDER[:3, :3] @ [part.start for part in window] + [7.0, -30.0, 12.0]
    names = ("t2", "gland", "lesions")
    folder.mkdir()
    for name, voxels in zip(names, body, strict=True):
        nib.save(nib.Nifti1Image(voxels[window], affine), folder / f"{name}.nii.gz")
    files = {name: str(folder / f"{name}.nii.gz") for name in names}
    place = {"file_of_t2": files["t2"], "file_of_gland": files["gland"], "localiser": "", "sample_id": "one"}
    return {"t2": files["t2"], "lesions": files["lesions"], **place}


def cropped(sample: dict[str, str], *, around_gland: bool = True) -> dict[str, torch.Tensor]:
    steps = [
        LoadImaged(KEYS, reader="NibabelReader", ensure_channel_first=True, image_only=True),
        Orientationd(KEYS, axcodes="LPS", labels=None),
        Spacingd(KEYS, pixdim=(2.0, 2.0, 3.0), mode=["bilinear", "nearest"]),
        *([CropToGland(KEYS, SIZE)] if around_gland else []),
        ResizeWithPadOrCropd("t2", SIZE, mode="edge"),
        CropLesions(SIZE),
    ]
    return Compose(steps)(sample)


def test_the_crop_follows_the_gland_and_not_the_field_of_view(body, tmp_path) -> None:
    windows = [(slice(x, x + 80), slice(y, y + 80), slice(0, 16)) for x, y in ((22, 14), (36, 14), (10, 26))]
    crops = [cropped(written(tmp_path / str(n), body, window)) for n, window in enumerate(windows)]
    plain = [cropped(written(tmp_path / f"c{n}", body, w), around_gland=False) for n, w in enumerate(windows)]
    assert crops[0]["t2"].shape == (1, *SIZE)
    for other in crops[1:]:
        np.testing.assert_allclose(other["t2"], crops[0]["t2"], atol=1e-3)
        np.testing.assert_array_equal(other["lesions"], crops[0]["lesions"])
    assert (crops[0]["lesions"] == 1).sum() > 0
    assert (crops[0]["lesions"] == 2).sum() == 0
    assert not torch.equal(plain[0]["t2"], plain[1]["t2"])


def test_at_the_border_the_crop_stays_within_t2_and_marks_the_lesion_that_it_cuts(body, tmp_path) -> None:
    window = (slice(50, 120), slice(14, 94), slice(0, 16))  # the gland begins where T2 does
    sample = cropped(written(tmp_path / "one", body, window))
    whole = cropped(written(tmp_path / "two", body, window), around_gland=False)
    assert sample["t2"].shape == whole["t2"].shape
    assert len(torch.unique(sample["t2"][0, -1])) > 10  # to the right, the first voxels: no edge is repeated there
    assert torch.unique(sample["lesions"]).tolist() == [-1.0, 0.0, 1.0]


def test_a_doubtful_gland_leaves_the_middle_and_a_warning(body, tmp_path, caplog) -> None:
    spec = {"features": [2, 2], "strides": [[2, 2, 1], [2, 2, 2]], "spacing_mm": 4.0, "size": [32, 32, 16]}
    localiser = localiser_of(spec)  # of random weights, and a bias that says: nowhere
    torch.save(localiser.network.state_dict(), tmp_path / WEIGHTS)
    (tmp_path / SPEC).write_text(str(spec).replace("'", '"'))
    sample = written(tmp_path / "one", body, (slice(0, 80), slice(0, 80), slice(0, 16)))
    with caplog.at_level(logging.WARNING):
        found = cropped(sample | {"file_of_gland": "", "localiser": str(tmp_path)})
    assert torch.equal(found["t2"], cropped(sample, around_gland=False)["t2"])
    assert "study one is cropped around its middle: gland_not_found" in caplog.text


def test_settings_of_before_are_what_they_were_and_a_localiser_needs_its_crop() -> None:
    given = dict.fromkeys(CohortSettings.model_fields) | {
        **{"dataset_dir": "data", "member": 0, "seed": 0, "loss": "bce", "loss_parameters": {}, "alm": True},
        **{"mu0": 1.0, "rho": 2.0, "delta": 1.0, "pretrain_epochs": 0, "alm_epochs": 1, "batch_size": 8},
        **{"learning_rate": 0.1, "device": "cpu", "precision": "float32", "threads": 1},
        **{"resume": False, "overwrite": False, "crop": "centre"},
    }
    assert {"crop", "localiser"} & set(CohortSettings(**given).model_dump()) == set()
    with pytest.raises(ValueError, match="localiser must go with a crop around the gland, got loc"):
        CohortSettings(**given | {"localiser": "loc"})
