"""Which images of CIFAR-10 a member trains on, which it keeps for validation, and which it is tested on.

Draws are nested, so that what is compared is compared on the same images. The images of a class are put in one random
order per member; training takes from its front and validation from its back. So the majority images of a member are
the same at each ratio, the minority images at 1:19 are among those at 1:9, and validation does not change with the
number of training images. The order is over the images of the class: it does not matter which other classes were read.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prostate_alm.data.cifar10 import CLASS_NAMES, Cifar10Error
from prostate_alm.data.splits import member_seed

TRAIN_MAJORITY = 300
"""Majority images that a member trains on (section 5.1 of the paper)."""
VALIDATION_MAJORITY = 100
"""Majority images that a member keeps for validation (appendix B of the paper)."""

# streams of member_seed; smaller ones are the trainer's
_MAJORITY_STREAM, _MINORITY_STREAM, _TEST_STREAM = 101, 102, 103
_CLASS_STREAM = 110  # and the nine after it

Rows = NDArray[np.int64]


def draw_member(
    classes: NDArray[np.integer],
    *,
    majority: int,
    minority: int,
    ratio: float,
    seed: int,
    member: int,
    majority_images: tuple[int, int] = (TRAIN_MAJORITY, VALIDATION_MAJORITY),
) -> tuple[Rows, Rows]:
    """Draw a member's training and validation images from the whole of both classes (appendix B).

    The minority has round(majority images / ratio) images, in training and in validation.

    Args:
        classes: class of each training image, (N,), see `ImageSet`.
        majority: number of the negative class.
        minority: number of the positive class.
        ratio: N of the class ratio 1:N, above 0.
        seed: seed of the experiment.
        member: number of the member, from 0.
        majority_images: how many of the majority for training and for validation, each at least 1.

    Returns:
        Rows of `classes` for training and for validation, no row in both; majority first, each part in random order.

    Raises:
        Cifar10Error: the classes are one, the ratio leaves no positive, or a class has too few images.

    >>> classes = np.repeat([0, 1], 500)
    >>> train, validation = draw_member(classes, majority=0, minority=1, ratio=9, seed=0, member=0)
    >>> np.bincount(classes[train]).tolist(), np.bincount(classes[validation]).tolist()
    ([300, 33], [100, 11])
    """
    _require_two_classes(majority, minority)
    sizes = dict(zip(("train_majority", "validation_majority"), majority_images, strict=True))
    for name, size in sizes.items():
        if size < 1:
            raise Cifar10Error(f"{name} must be at least 1, got {size}. The paper has {TRAIN_MAJORITY} for training.")
    positives = [_minority_count(size, ratio, name) for name, size in sizes.items()]
    parts = [
        _front_and_back(classes, majority, list(sizes.values()), member_seed(seed, member, _MAJORITY_STREAM)),
        _front_and_back(classes, minority, positives, member_seed(seed, member, _MINORITY_STREAM)),
    ]
    train, validation = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return train, validation


def class_sizes(largest: int, imbalance: float, *, rare: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return how many images each of the ten classes has.

    n_k = largest · imbalance^(-k / 9) (exponential, CIFAR-10-LT); or `largest`, divided by `imbalance` for rare ones.

    Args:
        largest: images of the largest class, at least 1.
        imbalance: of the largest class to the smallest, at least 1.
        rare: numbers of the classes that are rare; None for the exponential profile.

    Raises:
        Cifar10Error: a number is out of its range, or a class is left without an image.

    Reference:
        Cui et al. 2019, arXiv:1901.05555; Cao et al. 2019, arXiv:1906.07413: long-tailed CIFAR-10.

    >>> class_sizes(5000, 100)
    (5000, 2997, 1797, 1077, 646, 387, 232, 139, 83, 50)
    >>> class_sizes(5000, 100, rare=[3])[2:5]
    (5000, 50, 5000)
    """
    if largest < 1 or not 1 <= imbalance < math.inf:
        raise Cifar10Error(
            f"imbalance must be at least 1 and the largest class hold an image, got {imbalance}, {largest}."
        )
    last = len(CLASS_NAMES) - 1
    shares = [k / last if rare is None else float(k in rare) for k in range(len(CLASS_NAMES))]
    sizes = tuple(round(largest * imbalance**-share) for share in shares)
    if min(sizes) < 1:
        raise Cifar10Error(
            f"imbalance must leave an image of each class, got {imbalance:g} for {largest} of the largest. "
            f"Choose one below {2 * largest}, or more images."
        )
    return sizes


def draw_classes(
    classes: NDArray[np.integer], *, train: Sequence[int], validation: Sequence[int], seed: int, member: int
) -> tuple[Rows, Rows]:
    """Draw a member's training and validation images of all ten classes; nested, as the draws of two classes are.

    Args:
        classes: class of each training image, (N,), see `ImageSet`.
        train: images of each class for training, see `class_sizes`.
        validation: images of each class for validation.
        seed: seed of the experiment.
        member: number of the member, from 0.

    Returns:
        Rows of `classes` for training and for validation, no row in both; by class, each part in random order.

    Raises:
        Cifar10Error: a class has too few images.
    """
    parts = [
        _front_and_back(classes, number, sizes, member_seed(seed, member, _CLASS_STREAM + number))
        for number, sizes in enumerate(zip(train, validation, strict=True))
    ]
    first, second = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return first, second


def draw_test(
    classes: NDArray[np.integer], *, majority: int, minority: int, ratio: float, seed: int = 0
) -> tuple[Rows, Rows]:
    """Draw the test images at a class ratio: all of the majority, and of the minority as many as the ratio asks for.

    The default seed is the one draw that all members and experiments share; the seeds 1, 2, ... give further draws,
    over which to average. Both parts together are the test set of appendix D, with all positives.

    Args:
        classes: class of each test image, (N,), see `ImageSet`.
        majority: number of the negative class.
        minority: number of the positive class.
        ratio: N of the class ratio 1:N, above 0; below 1 it asks for more than there are, and gets all.
        seed: number of the draw.

    Returns:
        Rows of `classes` at the ratio, majority first, in the order of the files; rows of the minority left over.

    Raises:
        Cifar10Error: the classes are one, the ratio leaves no positive, or a class has no image.

    >>> classes = np.repeat([0, 1], 1000)
    >>> at_ratio, extra = draw_test(classes, majority=0, minority=1, ratio=19)
    >>> np.bincount(classes[at_ratio]).tolist(), len(extra)
    ([1000, 53], 947)
    """
    _require_two_classes(majority, minority)
    negatives, positives = (np.flatnonzero(classes == number) for number in (majority, minority))
    for number, rows in ((majority, negatives), (minority, positives)):
        _require_images(number, len(rows), wanted=1)
    count = min(_minority_count(len(negatives), ratio, "majority test images"), len(positives))
    shuffled = positives[_random_order(len(positives), member_seed(seed, 0, _TEST_STREAM))]
    return np.concatenate([negatives, np.sort(shuffled[:count])]), np.sort(shuffled[count:])


def sample_ids(split: str, numbers: Sequence[int] | NDArray[np.integer]) -> list[str]:
    """Return the stable ids of images, from the split of the files and the record numbers of an `ImageSet`.

    Raises:
        Cifar10Error: split is neither "train" nor "test".

    >>> sample_ids("train", [1234, 49999]), sample_ids("test", [987])
    (['train-01234', 'train-49999'], ['test-00987'])
    """
    if split not in ("train", "test"):
        raise Cifar10Error(f"split must be one of the files', got {split!r}. Available: ['train', 'test']")
    return [f"{split}-{number:05d}" for number in numbers]


def _require_two_classes(majority: int, minority: int) -> None:
    if majority == minority:
        raise Cifar10Error(
            f"majority and minority must be two classes, got {_described(majority)} for both. Choose another."
        )


def _minority_count(majority_count: int, ratio: float, name: str) -> int:
    if not (math.isfinite(ratio) and ratio > 0):
        raise Cifar10Error(
            f"ratio must be a finite number above 0, the N of 1:N, got {ratio}. The paper has 2, 9 and 19."
        )
    count = round(majority_count / ratio)
    if count < 1:
        raise Cifar10Error(
            f"ratio must leave a minority image, got 1:{ratio:g} for {majority_count} in {name}. "
            f"Choose a ratio below {2 * majority_count}, or more majority images."
        )
    return count


def _front_and_back(classes: NDArray[np.integer], number: int, counts: Sequence[int], seed: int) -> tuple[Rows, Rows]:
    """Return counts[0] rows of the class from the front of its random order, and counts[1] from its back."""
    rows = np.flatnonzero(classes == number)
    _require_images(number, len(rows), wanted=sum(counts))
    order = rows[_random_order(len(rows), seed)]
    return order[: counts[0]], order[::-1][: counts[1]]


def _require_images(number: int, available: int, *, wanted: int) -> None:
    if available < wanted:
        raise Cifar10Error(
            f"class {_described(number)} must have at least {wanted} images for this draw, got {available}. "
            "Ask for fewer majority images, choose a larger ratio, or read more data."
        )


def _random_order(count: int, seed: int) -> Rows:
    """Return a random order of range(count): the ranks of raw bits, which numpy promises to keep, unlike `permutation`.

    >>> sorted(_random_order(4, seed=0).tolist())
    [0, 1, 2, 3]
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def _described(number: int) -> str:
    return f"{number} ({CLASS_NAMES[number]})" if 0 <= number < len(CLASS_NAMES) else str(number)
