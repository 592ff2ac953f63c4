"""Image and lesions move together, and lesions that a crop cuts are marked."""

import torch

from prostate_alm.data.lesion_maps import CropLesions, CropStack, crop_mirror_and_scale_stack, mark_cut
from prostate_alm.data.tensors import crop_mirror_and_scale


def stacks(count: int = 16) -> torch.Tensor:
    """Return stacks whose image says for each voxel where it was: (x, y, z) as one number, and two lesions."""
    x, y, z = torch.meshgrid(*[torch.arange(size) for size in (8, 7, 6)], indexing="ij")
    stack = torch.zeros(count, 3, 8, 7, 6)
    stack[:, 0] = (100 * x + 10 * y + z).float()
    stack[:, -1, 3:5, 3:5, 2:4] = 1
    stack[:, -1, :2, :2, :2] = 2
    return stack


def test_each_lesion_voxel_stays_on_its_place_in_the_image() -> None:
    stack = stacks()
    random = torch.Generator().manual_seed(3)
    plain = crop_mirror_and_scale(stack, torch.Generator().manual_seed(3), size=(6, 5, 4), gain_max=0, offset_max=0)
    moved = crop_mirror_and_scale_stack(stack, random, size=(6, 5, 4))
    seen = set()
    for where, crop in zip(plain[:, 0].long(), moved, strict=True):
        before = stack[0, -1][where // 100, where // 10 % 10, where % 10]
        lost = {k for k in (1, 2) if (before == k).sum() < (stack[0, -1] == k).sum()}
        expected = torch.where(torch.isin(before, torch.tensor(sorted(lost), dtype=torch.float32)), -1.0, before)
        torch.testing.assert_close(crop[-1], expected)
        seen |= set(crop[-1].unique().tolist()) | {float(where[0, 0, 0] > where[-1, 0, 0]) + 10}
    assert seen == {-1.0, 0.0, 1.0, 2.0, 10.0, 11.0}  # cut ones and whole ones, mirrored and not


def test_the_image_is_that_of_the_augmentation_without_lesions() -> None:
    stack = stacks()
    image = crop_mirror_and_scale(stack[:, :-1], torch.Generator().manual_seed(5), size=(6, 5, 4))
    moved = crop_mirror_and_scale_stack(stack, torch.Generator().manual_seed(5), size=(6, 5, 4))
    torch.testing.assert_close(moved[:, :-1], image)
    assert stack.equal(stacks())


def test_a_lesion_that_was_cut_before_stays_cut() -> None:
    assert mark_cut(torch.tensor([-1, 0, 3, 3]), torch.tensor([-1, 0, 3])).tolist() == [-1, 0, -1]
    assert mark_cut(torch.tensor([3, 3, 0]), torch.tensor([3, 3])).tolist() == [3, 3]


def test_crops_around_the_centre() -> None:
    lesions = torch.zeros(1, 6, 6, 6)
    lesions[0, 2:4, 2:4, 2:4], lesions[0, 0, 0, :] = 1, 2
    cropped = CropLesions((4, 8, 6))({"lesions": lesions})["lesions"]
    assert cropped.shape == (1, 4, 8, 6)
    assert cropped.unique().tolist() == [0, 1]  # the other is gone, and padding is background
    stack = torch.cat([torch.rand(2, 6, 6, 6), lesions])
    cropped = CropStack((4, 4, 2))({"image": stack})["image"]
    torch.testing.assert_close(cropped[:2], stack[:2, 1:5, 1:5, 2:4])
    assert (cropped[-1] == 1).sum() == 8
    assert CropStack((4, 4, 1))({"image": stack})["image"][-1].unique().tolist() == [-1, 0]
