"""Which images belong together, whatever their Series Instance UIDs say. See `golden_studies`."""

import pytest
from golden_studies import SAGITTAL, Cases, bent, own, with_private
from pydicom.dataset import Dataset
from pydicom.uid import RawDataStorage, SecondaryCaptureImageStorage

CASES = Cases()
case = CASES.case


@case("an export of Philips holds an object without pixels in each series", has_plain_voxels=True)
def _raw_objects_in_the_series(b):
    extra = []
    for image in (b.series(2)[0], b.diffusion(3)[0]):
        for keyword in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(image, keyword)
        extra += own(b, bent([image], SOPClassUID=RawDataStorage), "raw")
    return b.study() + extra


@case("one planning image in another plane", warnings=("images_left_out",), has_plain_voxels=True)
def _one_sagittal_image(b):
    return b.study() + own(b, b.series(2, ImageOrientationPatient=SAGITTAL)[:1], "key")


@case("a screenshot in the series", warnings=("images_left_out",), has_plain_voxels=True)
def _a_secondary_capture_in_the_series(b):
    (image,) = own(b, b.series(2)[:1], "capture")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(image, keyword)
    image.SOPClassUID = SecondaryCaptureImageStorage
    return [*b.study(), image]


def _halves(b, images: list[Dataset], *, per_stack: int) -> list[Dataset]:
    upper = [one for index, one in enumerate(images) if index % per_stack >= per_stack // 2]
    bent(upper, SeriesInstanceUID=b.uid("half"))
    return images


@case("one acquisition under two Series Instance UIDs", has_plain_voxels=True)
def _halves_of_t2(b):
    return _halves(b, b.series(2, slices=12), per_stack=12) + b.diffusion(3, slices=12)


@case("one acquisition under two Series Instance UIDs", has_plain_voxels=True)
def _halves_of_diffusion(b):
    return b.series(2, slices=12) + _halves(b, b.diffusion(3, slices=12), per_stack=12)


@case("acquired twice in one series: acquisition numbers tell")
def _repeat_in_one_series(b):
    again = own(b, bent(b.series(2), AcquisitionNumber=2), "again")
    return bent(b.series(2), AcquisitionNumber=1) + again + b.diffusion(3)


@case("a later repeat that was aborted is no candidate", roles={9: "t2_unused"})
def _aborted_repeat(b):
    return b.study(slices=12) + b.series(9, slices=5)


@case("a later repeat that lost a slice gives way, and is told", warnings=("preferred_images_unusable",))
def _repeat_that_lost_a_slice(b):
    return b.study() + b.series(9)[:3] + b.series(9)[4:]


@case("PS3.3 C.8.3.1: Spacing Between Slices (0018,0088) was 3 mm", refused="missing_slice", says="(0018,0088)")
def _every_second_slice_gone(b):
    return b.series(2, slices=12, SpacingBetweenSlices=3.0)[::2] + b.diffusion(3, slices=12)


@case("without a plan, gaps as wide as slices are told", warnings=("slices_may_be_missing",))
def _every_second_slice_gone_without_a_plan(b):
    return b.series(2, slices=12)[::2] + b.diffusion(3, slices=12)


@case("numbers begin at 2", warnings=("slices_may_be_missing",))
def _an_end_slice_gone(b):
    return b.series(2)[1:] + b.diffusion(3)


@case("numbers of diffusion lack the last slice of each b-value but the highest", warnings=("slices_may_be_missing",))
def _an_end_slice_of_diffusion_gone(b):
    return b.series(2) + [one for index, one in enumerate(b.diffusion(3)) if index % 6 != 5]


@case("T2 and diffusion lie on the same slices but for one", warnings=("slices_may_be_missing",))
def _another_end_slice_gone(b):
    axial = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return b.series(2, ImageOrientationPatient=axial)[:-1] + b.diffusion(3, ImageOrientationPatient=axial)


@case("Philips: (2001,xx18) slices were planned", warnings=("slices_may_be_missing",))
def _fewer_slices_than_planned(b):
    return with_private(b.series(2), 0x2001, "Philips Imaging DD 001", 0x18, "SL", 9) + b.diffusion(3)


@case("half of the gland has no diffusion", warnings=("coverage_differs",))
def _half_of_diffusion(b):
    kept = [one for index, one in enumerate(b.diffusion(3, slices=20)) if index % 20 < 11]
    return b.series(2, slices=20) + kept


@case("half of the gland has no T2", warnings=("coverage_differs",))
def _half_of_t2(b):
    return b.series(2, slices=20)[9:] + b.diffusion(3, slices=20)


@case("concatenations: odd and even slices under two Series Instance UIDs", has_plain_voxels=True)
def _concatenations_of_t2(b):
    t2 = b.series(2, slices=12)
    bent(t2[1::2], SeriesInstanceUID=b.uid("odd"), SeriesNumber=12)
    return t2 + b.diffusion(3, slices=12)


@case("two echoes in one series, one of them T2")
def _dual_echo(b):
    return b.study() + own(b, b.series(2, EchoTime=15.0), "proton density")


@case("an interleaved second stack is no part of the first", t2=9)
def _repeat_half_a_slice_higher(b):
    return b.study() + b.series(9, origin_mm=(-5.0, -4.0, 1.5))


@pytest.mark.parametrize("name", CASES)
def test_the_golden_table(build, written, plain_voxels, name):
    CASES[name].require(written(CASES[name].images(build)), plain_voxels)
