"""Which of several series is taken. See `golden_studies`."""

import pytest
from golden_studies import B_VALUES, Cases, bent, own, rival

CASES = Cases()
case = CASES.case


@case("finer pixels, but not the gland", roles={9: "t2_unused"})
def _zoom(b):
    zoom = b.series(9, PixelSpacing=[0.3, 0.3])
    return b.study(slices=14) + zoom


@case("finer pixels, but of another region", roles={9: "t2_unused"}, says="no_overlap")
def _t2_of_another_region(b):
    return rival(b, PixelSpacing=[0.3, 0.3], origin_mm=(-5.0, -4.0, 250.0))


_LEFT = {"roles": {9: "dwi_unused"}, "warnings": ("b_values_left_out",), "has_plain_voxels": True}


@case("what remains suffices", **_LEFT)
def _further_b_value_on_another_grid(b):
    return b.study() + b.diffusion(9, b_values=(1400.0,), origin_mm=(-4.0, -3.0, 1.5))


@case("what remains suffices", **_LEFT)
def _further_b_value_with_fewer_slices(b):
    return b.study() + b.diffusion(9, b_values=(1400.0,), slices=5)


@case("b 50 was acquired twice", dwi={3: B_VALUES[1:]}, warnings=("b_values_left_out",))
def _lowest_b_value_twice(b):
    return b.study() + own(b, b.diffusion(3, b_values=(50.0,)), "twice")


@case("b = 0 has no direction: each repeat of it is the same measurement", dwi={3: (0.0, 800.0)})
def _b_zero_three_times(b):
    repeats = [one for tag in ("2", "3") for one in own(b, b.diffusion(3, b_values=(0.0,)), tag)]
    return b.series(2) + b.diffusion(3, b_values=(0.0, 800.0)) + repeats


@case("above 0 several images at a position may be directions", refused="no_diffusion", dwi={})
def _b_800_twice(b):
    images = b.diffusion(3, b_values=(0.0, 800.0), ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    return b.series(2) + images + own(b, b.diffusion(3, b_values=(800.0,)), "2")


@case("S0 depends on the echo time", refused="one_b_value", says="echo times")
def _echo_time_by_b_value(b):
    dwi = b.diffusion(3)
    for index, time in enumerate((58.0, 70.0, 85.0)):
        bent(dwi[6 * index : 6 * index + 6], EchoTime=time)
    return b.series(2) + dwi


@case("a difference of 1 s/mm2 is noise", refused="one_b_value", says="200")
def _b_values_too_close(b):
    return b.series(2) + b.diffusion(3, b_values=(0.0, 1.0))


_BLIP = {"roles": {9: "dwi_unused"}, "has_plain_voxels": True}


@case("distorted the other way, by its name", **_BLIP)
def _reversed_b_zero_by_its_name(b):
    return b.study() + b.diffusion(9, b_values=(0.0,), SeriesDescription="ep2d_diff_tra_PA")


@case("PS3.3 C.8.3.1: In-plane Phase Encoding Direction (0018,1312)", **_BLIP)
def _b_zero_of_another_axis(b):
    swapped = b.diffusion(9, b_values=(0.0,), InPlanePhaseEncodingDirection="ROW")
    return bent(b.study(), InPlanePhaseEncodingDirection="COL") + swapped


@case("echo times that differ by a rounding are one contrast", has_plain_voxels=True)
def _echo_times_of_a_rounding(b):
    t2 = b.series(2)
    bent(t2[::2], EchoTime=104.02)
    return t2 + b.diffusion(3)


@case("PS3.3 C.7.6.2.1.2: Slice Location says that two images changed places", warnings=("positions_disagree",))
def _exchanged_positions(b):
    images = b.study()
    for index, image in enumerate(images[:6]):
        image.SliceLocation = 3.0 * index
    one, other = images[2:4]
    one.ImagePositionPatient, other.ImagePositionPatient = other.ImagePositionPatient, one.ImagePositionPatient
    return images


@case("PS3.3 C.7.6.1: numbers that rise with the position but for two images", warnings=("positions_disagree",))
def _exchanged_positions_without_locations(b):
    images = b.study()
    one, other = images[2:4]
    one.ImagePositionPatient, other.ImagePositionPatient = other.ImagePositionPatient, one.ImagePositionPatient
    return images


@case("every second slice was counted first, as interleaved acquisitions are", has_plain_voxels=True)
def _interleaved_numbers(b):
    images = b.study()
    for image, number in zip(images[:6], (1, 4, 2, 5, 3, 6), strict=True):
        image.InstanceNumber = number
    return images


@case("Slice Location falls where positions rise, as some vendors count", has_plain_voxels=True)
def _falling_locations(b):
    images = b.study()
    for index, image in enumerate(images[:6]):
        image.SliceLocation = -3.0 * index
    return images


@pytest.mark.parametrize("name", CASES)
def test_the_golden_table(build, written, plain_voxels, name):
    CASES[name].require(written(CASES[name].images(build)), plain_voxels)
