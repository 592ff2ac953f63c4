"""The network's input is that of the training, to the quantisation of the training's files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from prostate_alm.data.convert import convert_study
from prostate_alm.data.gland import gland_of_file
from prostate_alm.delivery.card import GridSpec
from prostate_alm.delivery.preprocess import (
    cropped_channels,
    image_placement,
    labels_on_t2,
    map_on_t2,
    network_input,
    outside_t2_mm,
    placed_around,
)
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume, load_study

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
B_VALUES = (100.0, 600.0, 1000.0)
GRID = GridSpec(
    spacing_mm=(2.0, 2.0, 3.0), normalised_size=(46, 46, 22), image_size=(40, 40, 20), b_values_s_per_mm2=B_VALUES
)


@pytest.fixture(scope="module", params=["prostate", "lesions"])
def transform(request: pytest.FixtureRequest) -> Compose:
    """Return what a bundle does with a validation study."""
    parser = ConfigParser()
    parser.read_config(BUNDLES / request.param / "train.json")
    return Compose(parser.get_parsed_content("read_and_normalise") + parser.get_parsed_content("centre_crop"))


def test_a_study_becomes_what_training_made_of_its_files(phantom_study, transform, tmp_path):
    volumes = load_study(phantom_study, b_values_s_per_mm2=B_VALUES)
    convert_study(phantom_study, tmp_path / "one", b_values_s_per_mm2=B_VALUES)
    files = {"t2": str(tmp_path / "one" / "t2.nii.gz"), "dwi": str(tmp_path / "one" / "dwi.nii.gz")}
    expected = transform({**files, "lesions": files["t2"], "label": 0, "sample_id": "one"})["image"][:4]
    found = network_input(volumes, GRID)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape == (4, 40, 40, 20)
    # files hold 16 bits over the range of T2, and over that of all diffusion: half a step, in units of each channel
    steps = [np.ptp(volumes.t2.voxels)] + [max(one.voxels.max() for one in volumes.dwi)] * 3
    deviations = cropped_channels(volumes, GRID).std(axis=(1, 2, 3))
    tolerance = np.array(steps) / 65535 / 2 / deviations + 2e-5
    assert ((found - expected).abs().amax(dim=(1, 2, 3)).numpy() < tolerance).all()


def _affine(random: np.random.Generator, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return an oblique affine, its axes in any order and direction."""
    rotation = np.linalg.qr(np.eye(3) + random.normal(0, 0.15, (3, 3)))[0]
    turned = rotation[:, random.permutation(3)] * random.choice([-1, 1], 3) * spacing_mm
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned, random.normal(0, 50, 3)
    return affine


CASES = [
    ((0.9, 0.9, 3.0), (130, 120, 25)),
    ((0.5, 0.5, 3.6), (200, 190, 19)),
    ((2.0, 2.0, 3.0), (60, 50, 24)),  # the model's own spacing
    ((2.0007, 1.9993, 3.0), (61, 49, 24)),  # near enough to it to be kept
    ((1.0, 1.3, 2.9), (40, 37, 12)),  # smaller than the crop: edges are repeated
    ((3.3, 2.7, 5.0), (9, 41, 7)),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("spacing_mm", "shape"), CASES)
def test_any_orientation_spacing_and_size_comes_out_as_monai_has_it(transform, spacing_mm, shape, seed):
    random = np.random.default_rng(seed)
    affine = _affine(random, spacing_mm) if seed else np.diag([-1.0, 1.0, 1.0, 1.0]) @ np.diag([*spacing_mm, 1.0])
    voxels = random.random((4, *shape), dtype=np.float32)
    t2, *dwi = (Volume(one, affine) for one in voxels)
    volumes = StudyVolumes(t2, tuple(dwi), B_VALUES, B_VALUES, (False,) * 3, Selection(None, (), None, ()))
    stored = torch.from_numpy(affine.astype(np.float32).astype(np.float64))  # NIfTI holds 32 bits
    data = {"t2": MetaTensor(voxels[:1], affine=stored), "dwi": MetaTensor(voxels[1:], affine=stored)}
    without_reader = Compose(transform.transforms[1:])
    data["lesions"] = MetaTensor(torch.zeros(1, *shape), affine=stored)
    expected = without_reader({**data, "label": 0, "sample_id": "one"})["image"][:4]  # the fifth are lesions
    np.testing.assert_allclose(network_input(volumes, GRID).numpy(), expected.numpy(), atol=2e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("spacing_mm", "shape"), CASES)
def test_a_crop_around_the_gland_is_that_of_the_training(tmp_path, spacing_mm, shape, seed):
    random = np.random.default_rng(seed)
    affine = _affine(random, spacing_mm) if seed else np.diag([-1.0, 1.0, 1.0, 1.0]) @ np.diag([*spacing_mm, 1.0])
    affine = affine.astype(np.float32).astype(np.float64)
    voxels, gland = random.random((4, *shape), dtype=np.float32), np.zeros(shape, np.uint8)
    gland[
        tuple(slice(low, low + max(2, size // 4)) for low, size in zip(random.integers(0, shape), shape, strict=True))
    ] = 1
    nib.save(nib.Nifti1Image(gland, affine), tmp_path / "gland.nii.gz")
    parser = ConfigParser()
    parser.read_config(BUNDLES / "prostate" / "train.json")
    parser["crop"] = "gland"
    steps = Compose(parser.get_parsed_content("read_and_normalise")[1:] + parser.get_parsed_content("centre_crop"))
    data = {"t2": MetaTensor(voxels[:1], affine=affine), "dwi": MetaTensor(voxels[1:], affine=affine)}
    place = {"file_of_gland": str(tmp_path / "gland.nii.gz"), "label": 0, "sample_id": "one"}
    t2, *dwi = (Volume(one, affine) for one in voxels)
    volumes = StudyVolumes(t2, tuple(dwi), B_VALUES, B_VALUES, (False,) * 3, Selection(None, (), None, ()))
    grid = placed_around(GRID, t2, gland_of_file(tmp_path / "gland.nii.gz").centre_mm)
    np.testing.assert_allclose(network_input(volumes, grid).numpy(), steps({**data, **place})["image"], atol=2e-4)
    assert outside_t2_mm(volumes, grid) == outside_t2_mm(volumes, GRID)  # the crop never leaves T2 for the gland


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("spacing_mm", "shape"), CASES)
def test_a_map_returns_to_t2_as_monai_inverts_it(spacing_mm, shape, seed):
    random = np.random.default_rng(seed)
    affine = _affine(random, spacing_mm) if seed else np.diag([-1.0, 1.0, 1.0, 1.0]) @ np.diag([*spacing_mm, 1.0])
    parser = ConfigParser()
    parser.read_config(BUNDLES / "lesions" / "inference.json")
    forwards = Compose(parser.get_parsed_content("preprocessing").transforms[1:])  # without the reader
    stored = torch.from_numpy(affine.astype(np.float32).astype(np.float64))
    voxels = torch.zeros(4, *shape)
    data = forwards({"t2": MetaTensor(voxels[:1], affine=stored), "dwi": MetaTensor(voxels[1:], affine=stored)})
    found = random.random(GRID.image_size, dtype=np.float32)
    back = Invertd(keys="pred", transform=forwards, orig_keys="image", nearest_interp=False, to_tensor=True)
    expected = back(data | {"pred": MetaTensor(torch.from_numpy(found)[None])})["pred"][0]
    volume = Volume(voxels[0].numpy(), affine)
    np.testing.assert_allclose(map_on_t2(found, volume, GRID), expected.numpy(), atol=1e-5)


def test_labels_are_those_of_the_nearest_voxel_and_come_back():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, GRID.image_size).astype(np.uint8)
    volume = Volume(np.zeros((160, 180, 60), np.float32), np.diag([0.7, -0.7, 1.1, 1.0]))
    on_t2 = labels_on_t2(labels, volume, GRID)
    turned = np.flip(on_t2, 0)  # X to the left, as the grid has it
    first, step = image_placement(volume, GRID)
    low, high = np.ceil(np.maximum(first, 0)).astype(int), np.array(turned.shape)
    for place in random.integers(low, high, (200, 3)):
        nearest = np.rint((place - first) / step).astype(int)
        inside = (nearest < GRID.image_size).all()
        assert turned[tuple(place)] == (labels[tuple(nearest)] if inside else 0)


def test_volumes_are_not_modified(phantom_study):
    volumes = load_study(phantom_study, b_values_s_per_mm2=B_VALUES)
    before = volumes.t2.voxels.copy()
    network_input(volumes, GRID)
    np.testing.assert_array_equal(volumes.t2.voxels, before)


def test_a_constant_channel_is_zero_not_nan():
    volume = Volume(np.full((50, 50, 24), 7.0, np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
    volumes = StudyVolumes(volume, (volume,) * 3, B_VALUES, B_VALUES, (False,) * 3, Selection(None, (), None, ()))
    assert (network_input(volumes, GRID) == 0).all()


@pytest.mark.parametrize(("slices", "lacking_mm"), [(20, 0.0), (19, 3.0), (10, 30.0)])
def test_what_lies_outside_t2_is_measured(slices, lacking_mm):
    volume = Volume(np.zeros((50, 50, slices), np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
    volumes = StudyVolumes(volume, (volume,) * 3, B_VALUES, B_VALUES, (False,) * 3, Selection(None, (), None, ()))
    assert outside_t2_mm(volumes, GRID) == (0.0, 0.0, lacking_mm)
