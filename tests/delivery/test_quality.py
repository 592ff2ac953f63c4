"""Warnings: each is given where its rule says, and none on a study like those of the training."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import shift

from prostate_alm.delivery.card import TrainingRange
from prostate_alm.delivery.preprocess import cropped_channels, intensity_variation
from prostate_alm.delivery.quality import (
    ArtefactLimits,
    few_positives,
    model_warnings,
    noise_to_signal,
    quality_warnings,
    slice_jump,
)
from prostate_alm.imaging.selection import Doubt
from prostate_alm.imaging.volume import StudyVolumes, Volume, load_study
from prostate_alm.method.operating_point import guaranteed_threshold

CLOSE = (-0.1, 0.1)


@pytest.fixture(scope="module")
def volumes(phantom_study) -> StudyVolumes:
    return load_study(phantom_study)


@pytest.fixture(scope="module")
def channels(volumes, packed_model):
    return cropped_channels(volumes, packed_model.card.grid)


@pytest.fixture(scope="module")
def trained(channels) -> TrainingRange:
    """Return the range of a training on studies like the phantom."""
    return TrainingRange(
        t2_spacing_mm=((0.9, 0.9), (0.9, 0.9), (3.0, 3.0)),
        dwi_spacing_mm=((2.0, 2.0), (2.0, 2.0), (3.0, 3.0)),
        field_strength_t=(1.5, 3.0),
        b_values_acquired_s_per_mm2=((100.0, 600.0, 1000.0),),
        manufacturers=(),
        intensity_variation=tuple((value, value) for value in intensity_variation(channels)),
    )


def codes(volumes, channels, model, trained, *, member_logits=CLOSE, **changes) -> list[str]:
    card = model.card.model_copy(update={"training_range": trained.model_copy(update=changes)})
    return [one.code for one in quality_warnings(volumes, channels, card=card, member_logits=member_logits)]


def test_a_study_like_those_of_the_training_has_no_warning(volumes, channels, packed_model, trained):
    assert codes(volumes, channels, packed_model, trained) == []


def test_no_image_is_read_again_for_the_warnings(phantom_study, channels, packed_model, trained, tmp_path):
    folder = shutil.copytree(phantom_study, tmp_path / "study")
    volumes = load_study(folder)
    shutil.rmtree(folder)
    moved = replace(volumes.acquired[0], voxels=jolted(volumes.acquired[0].voxels))
    jumping = replace(volumes, acquired=(moved, *volumes.acquired[1:]))
    assert codes(volumes, channels, packed_model, trained) == []
    assert codes(jumping, channels, packed_model, trained) == ["motion_suspected"]


def jolted(voxels):
    """Return slices of which every other one lies 5 voxels aside, as of a patient who moved between two passes."""
    return np.stack(
        [shift(one, (5 * (k % 2), 0), mode="nearest") for k, one in enumerate(np.moveaxis(voxels, 2, 0))], axis=2
    )


def test_what_a_model_warns_of_whatever_the_study(packed_model):
    card, point = packed_model.card, packed_model.card.operating_point()
    assert [one.code for one in model_warnings(card, point)] == ["synthetic_model", "few_positives"]
    patients = card.model_copy(update={"data_is_synthetic": False})
    enough = point.model_copy(update={"threshold_guaranteed": point.threshold})
    assert model_warnings(patients, enough) == ()


@pytest.mark.parametrize(("target_tpr", "needed"), [(0.95, 59), (0.9, 29), (0.99, 299)])
def test_the_number_of_positives_that_would_do_is_the_least(packed_model, target_tpr, needed):
    """1 - p^n is the chance that the lowest of n positives lies below the threshold of the population."""
    point = packed_model.card.operating_point().model_copy(update={"target_tpr": target_tpr, "positives": 7})
    assert f"rests on 7 validation positives; {needed} would be needed" in few_positives(point)
    assert 1 - target_tpr**needed >= 0.95 > 1 - target_tpr ** (needed - 1)
    assert guaranteed_threshold(np.arange(needed), target_tpr=target_tpr) is not None
    assert guaranteed_threshold(np.arange(needed - 1), target_tpr=target_tpr) is None


def test_no_number_of_positives_guarantees_all(packed_model):
    point = packed_model.card.operating_point().model_copy(update={"target_tpr": 1.0})
    assert few_positives(point).endswith("no number of them guarantees 100 %.")


def test_a_model_that_knows_nothing_of_its_training_warns_of_nothing(volumes, channels, packed_model):
    assert codes(volumes, channels, packed_model, TrainingRange()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"t2_spacing_mm": ((0.81, 0.818), (0.9, 0.9), (3.0, 3.0))}, "spacing_outside_training"),
        ({"t2_spacing_mm": ((0.82, 0.82), (0.9, 0.9), (3.0, 3.0))}, None),  # 10 % beyond is still near
        ({"dwi_spacing_mm": ((1.6, 1.6), (2.0, 2.0), (3.0, 3.0))}, "spacing_outside_training"),
        ({"field_strength_t": (7.0, 7.0)}, "field_strength_outside_training"),
        ({"manufacturers": ("Nobody",)}, "manufacturer_not_in_training"),
        ({"b_values_acquired_s_per_mm2": ((0.0, 1000.0), (50.0, 400.0, 800.0))}, "b_values_not_in_training"),
        ({"b_values_acquired_s_per_mm2": ((103.0, 600.0, 1000.0),)}, None),
        ({"intensity_variation": ((0.01, 0.02),) * 4}, "intensity_outside_training"),
    ],
)
def test_what_the_training_did_not_have_is_named(volumes, channels, packed_model, trained, changes, expected):
    found = codes(volumes, channels, packed_model, trained, **changes)
    assert set(found) == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("channel", "name"), [(0, "T2"), (1, "diffusion image 1"), (2, "diffusion image 2"), (3, "diffusion image 3")]
)
def test_a_signal_that_varies_otherwise_is_named(volumes, channels, packed_model, trained, channel, name):
    ranges = list(trained.intensity_variation)
    ranges[channel] = (0.01, 0.02)
    changed = trained.model_copy(update={"intensity_variation": tuple(ranges)})
    card = packed_model.card.model_copy(update={"training_range": changed})
    (warning,) = quality_warnings(volumes, channels, card=card, member_logits=CLOSE)
    seen = channels[channel].std() / channels[channel].mean()
    assert warning.message.startswith(f"the signal of {name} varies by {seen:.2f} of its mean, in the training by 0.01")


def test_computed_b_values_are_named_and_extrapolation_is_said(volumes, channels, packed_model, trained):
    other = replace(volumes, b_values_acquired_s_per_mm2=(50.0, 400.0, 800.0), b_values_computed=(True, False, True))
    card = packed_model.card.model_copy(update={"training_range": trained})
    found = {one.code: one.message for one in quality_warnings(other, channels, card=card, member_logits=CLOSE)}
    assert set(found) == {"b_values_computed", "b_values_not_in_training"}
    assert "b 100, 1000 s/mm2 come from a fit" in found["b_values_computed"]
    assert "b 1000 by extrapolation" in found["b_values_computed"]


def test_a_field_of_view_that_misses_the_middle_is_named(volumes, channels, packed_model, trained):
    moved = volumes.t2.affine_ras_mm.copy()
    moved[:3, 3] += 60 * moved[:3, 2] / np.linalg.norm(moved[:3, 2])
    away = replace(volumes, t2=Volume(volumes.t2.voxels, moved))
    assert codes(away, channels, packed_model, trained) == ["prostate_outside_diffusion"]
    thin = replace(volumes, t2=Volume(volumes.t2.voxels[:, :, :17], volumes.t2.affine_ras_mm))
    assert codes(thin, channels, packed_model, trained) == ["t2_smaller_than_crop"]


def test_members_disagree_when_they_differ_as_studies_do(volumes, channels, packed_model, trained):
    spread = float(np.std(packed_model.card.validation.logits, ddof=1))
    for factor, expected in ((0.99, []), (1.01, ["members_disagree"])):
        logits = (-spread * factor / np.sqrt(2), spread * factor / np.sqrt(2))  # deviation: factor * spread
        assert codes(volumes, channels, packed_model, trained, member_logits=logits) == expected


def _noisy(voxels, random):
    """Return a volume with twice the noise of the phantom's T2 added, as a magnitude image has it."""
    deviation = 0.1 * np.median(voxels)
    real, imaginary = (random.normal(0, deviation, voxels.shape) for _ in range(2))
    return np.hypot(voxels + real, imaginary).astype(np.float32)


def _moved(voxels, random):
    """Return a volume whose even slices were acquired after a move of 4 mm."""
    moved = voxels.copy()
    for index in range(1, voxels.shape[2], 2):
        moved[:, :, index] = shift(voxels[:, :, index], (0, 4 / 0.9), order=1, mode="nearest")
    return moved


def test_a_doubt_of_the_selection_reaches_the_answer(volumes, channels, packed_model, trained):
    doubted = replace(volumes.selection, doubts=(Doubt("patient_not_male", "the sex is F."),))
    assert codes(replace(volumes, selection=doubted), channels, packed_model, trained) == ["patient_not_male"]


@pytest.mark.parametrize(("spoil", "expected"), [(_noisy, "noise_suspected"), (_moved, "motion_suspected")])
def test_spoilt_images_are_suspected(volumes, channels, packed_model, trained, spoil, expected):
    spoilt = Volume(spoil(volumes.t2.voxels, np.random.default_rng(0)), volumes.t2.affine_ras_mm)
    assert codes(replace(volumes, t2=spoilt), channels, packed_model, trained) == [expected]


def test_estimators_do_not_depend_on_gain(volumes):
    louder = Volume(volumes.t2.voxels * 7, volumes.t2.affine_ras_mm)
    assert noise_to_signal(louder) == pytest.approx(noise_to_signal(volumes.t2), rel=1e-4)
    assert slice_jump(louder) == pytest.approx(slice_jump(volumes.t2), rel=1e-4)
    limits = ArtefactLimits()
    assert noise_to_signal(volumes.t2) < limits.t2_noise
    assert slice_jump(volumes.t2) < limits.slice_jump
