"""Draws against a count by hand, what must not change them, and what a fair draw looks like."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from prostate_alm.data.cifar10 import Cifar10Error
from prostate_alm.data.cifar10_draws import class_sizes, draw_classes, draw_member, draw_test, sample_ids

TEN = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
PAIR = np.repeat([6, 7], 1000)


def member(
    ratio: float, *, classes: NDArray[np.int64] = TEN, seed: int = 0, number: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return draw_member(classes, majority=0, minority=1, ratio=ratio, seed=seed, member=number)


def of_class(rows: NDArray[np.int64], number: int) -> list[int]:
    return [int(row) for row in rows if TEN[row] == number]


@pytest.mark.parametrize(
    ("ratio", "train", "validation"),
    [(1, 300, 100), (2, 150, 50), (9, 33, 11), (19, 16, 5), (2.5, 120, 40)],
)
def test_the_paper_s_counts_at_each_ratio(ratio: float, train: int, validation: int) -> None:
    parts = member(ratio)
    assert [Counter(TEN[part].tolist()) for part in parts] == [{0: 300, 1: train}, {0: 100, 1: validation}]


@settings(deadline=None)
@given(
    st.permutations(range(10)),
    st.floats(0.9, 20),
    st.integers(0, 2**32 - 1),
    st.integers(0, 9),
    st.integers(20, 250),
    st.integers(20, 200),
)
def test_parts_share_no_image_repeat_none_and_hold_the_two_classes_only(
    pair: list[int], ratio: float, seed: int, number: int, train_size: int, validation_size: int
) -> None:
    parts = draw_member(
        TEN,
        majority=pair[0],
        minority=pair[1],
        ratio=ratio,
        seed=seed,
        member=number,
        majority_images=(train_size, validation_size),
    )
    rows = np.concatenate(parts).tolist()
    assert len(set(rows)) == len(rows)
    for part, size in zip(parts, (train_size, validation_size), strict=True):
        counts = Counter(TEN[part].tolist())
        assert counts == {pair[0]: size, pair[1]: counts[pair[1]]}
        assert abs(counts[pair[1]] - size / ratio) <= 0.5


@pytest.mark.parametrize("part", [0, 1])
def test_ratios_are_paired_the_majority_is_the_same_and_the_minority_is_the_first_of_the_larger_one(part: int) -> None:
    large, small = member(9)[part], member(19)[part]
    assert of_class(large, 0) == of_class(small, 0)
    fewer = of_class(small, 1)
    assert of_class(large, 1)[: len(fewer)] == fewer


def test_validation_does_not_depend_on_the_number_of_training_images() -> None:
    sizes = [
        draw_member(TEN, majority=0, minority=1, ratio=2, seed=0, member=0, majority_images=(size, 100))[1]
        for size in (100, 300)
    ]
    np.testing.assert_array_equal(*sizes)


def test_the_images_do_not_depend_on_which_other_classes_were_read() -> None:
    numbers = np.flatnonzero(TEN <= 1)  # the record numbers that reading two classes gives
    for all_ten, two in zip(member(9), member(9, classes=TEN[numbers]), strict=True):
        assert sample_ids("train", all_ten) == sample_ids("train", numbers[two])


def test_ten_members_and_seeds_differ_and_each_repeats() -> None:
    draws = [tuple(member(19, seed=seed, number=k)[0].tolist()) for seed in range(3) for k in range(10)]
    assert len(set(draws)) == 30
    assert draws[17] == tuple(member(19, seed=1, number=7)[0].tolist())


def test_members_draw_from_the_whole_class_evenly() -> None:
    drawn = Counter(
        row for k in range(300) for row in of_class(np.concatenate(member(9, number=k)), 1)
    )  # 44 of 500 images each, without replacement: less spread than chi-square with its 499 degrees of freedom
    counts = [drawn[int(row)] for row in np.flatnonzero(TEN == 1)]
    assert sum(counts) == 300 * 44
    assert 0.001 < chisquare(counts).pvalue < 0.9999


def test_a_draw_is_the_same_on_every_machine() -> None:
    train, validation = member(19, classes=np.tile(np.arange(10), 500))
    # numpy promises that SeedSequence and the bits of PCG64 stay; other values move all results
    assert (train[:3].tolist(), validation[-3:].tolist()) == ([2170, 3890, 4840], [3921, 1291, 1641])
    at_ratio, _ = draw_test(PAIR, majority=6, minority=7, ratio=19)
    assert at_ratio[1000:1003].tolist() == [1001, 1006, 1010]


@pytest.mark.parametrize(("ratio", "count"), [(1, 1000), (0.5, 1000), (2, 500), (9, 111), (19, 53), (1999, 1)])
def test_the_test_set_has_all_of_the_majority_and_the_two_parts_make_the_whole(ratio: float, count: int) -> None:
    at_ratio, extra = draw_test(PAIR, majority=6, minority=7, ratio=ratio)
    assert Counter(PAIR[at_ratio].tolist()) == {6: 1000, 7: count}
    assert sorted([*at_ratio.tolist(), *extra.tolist()]) == list(range(2000))
    assert np.all(PAIR[extra] == 7)


def test_the_test_draw_is_one_and_nested_and_other_seeds_give_others() -> None:
    draws = [draw_test(PAIR, majority=6, minority=7, ratio=19, seed=seed)[0] for seed in range(100)]
    assert len({tuple(rows.tolist()) for rows in draws}) == 100
    np.testing.assert_array_equal(draws[0], draw_test(PAIR, majority=6, minority=7, ratio=19)[0])
    assert set(draws[0].tolist()) < set(draw_test(PAIR, majority=6, minority=7, ratio=9)[0].tolist())
    seen = Counter(int(row) for rows in draws for row in rows[1000:])
    assert chisquare([seen[row] for row in range(1000, 2000)]).pvalue > 0.001


@pytest.mark.parametrize("ratio", [0.0, -2.0, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(Cifar10Error, match=r"^ratio must be a finite number above 0.*got "):
        member(ratio)
    with pytest.raises(Cifar10Error, match=r"^ratio must be a finite number above 0.*got "):
        draw_test(PAIR, majority=6, minority=7, ratio=ratio)


def test_a_ratio_that_leaves_no_positive_is_refused() -> None:
    member(199)  # 100 / 199 rounds to 1
    with pytest.raises(Cifar10Error, match=r"^ratio must leave a minority image, got 1:200 for 100 in validation_m"):
        member(200)
    with pytest.raises(Cifar10Error, match=r"got 1:700 for 300 in train_majority\. Choose a ratio below 600"):
        member(700)
    with pytest.raises(Cifar10Error, match=r"got 1:2000 for 1000 in majority test images"):
        draw_test(PAIR, majority=6, minority=7, ratio=2000)


def test_one_class_against_itself_is_refused() -> None:
    message = r"^majority and minority must be two classes, got 7 \(horse\) for both"
    with pytest.raises(Cifar10Error, match=message):
        draw_test(PAIR, majority=7, minority=7, ratio=2)
    with pytest.raises(Cifar10Error, match=message):
        draw_member(PAIR, majority=7, minority=7, ratio=2, seed=0, member=0)


def test_a_class_with_too_few_images_is_named_with_both_numbers() -> None:
    whole = draw_member(PAIR, majority=6, minority=7, ratio=1, seed=0, member=0, majority_images=(900, 100))
    assert [len(part) for part in whole] == [1800, 200]  # the last image of each class
    with pytest.raises(Cifar10Error, match=r"^class 6 \(frog\) must have at least 1001 images.*got 1000"):
        draw_member(PAIR, majority=6, minority=7, ratio=1, seed=0, member=0, majority_images=(901, 100))
    with pytest.raises(Cifar10Error, match=r"^class 7 \(horse\) must have at least 1600 images.*got 1000"):
        draw_member(PAIR, majority=6, minority=7, ratio=0.25, seed=0, member=0)
    with pytest.raises(Cifar10Error, match=r"^class 3 \(cat\) must have at least 1 images.*got 0"):
        draw_test(PAIR, majority=6, minority=3, ratio=2)


@pytest.mark.parametrize(("name", "sizes"), [("train_majority", (0, 100)), ("validation_majority", (300, 0))])
def test_a_part_without_images_is_refused(name: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(Cifar10Error, match=rf"^{name} must be at least 1, got 0"):
        draw_member(TEN, majority=0, minority=1, ratio=2, seed=0, member=0, majority_images=sizes)


def test_the_classes_are_not_changed() -> None:
    before = TEN.copy()
    member(2)
    draw_test(TEN, majority=0, minority=1, ratio=2)
    np.testing.assert_array_equal(TEN, before)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(Cifar10Error, match=r"got 'validation'\. Available: \['train', 'test'\]"):
        sample_ids("validation", [1])


@pytest.mark.parametrize(("imbalance", "published"), [(100, 12406), (200, 11203), (10, 20431), (1, 50000)])
def test_long_tailed_sizes_are_those_of_the_literature(imbalance: float, published: int) -> None:
    """Cao et al. round down, so that their totals are lower by less than one image a class."""
    assert 0 <= sum(class_sizes(5000, imbalance)) - published < 10
    assert class_sizes(5000, imbalance)[::9] == (5000, 5000 / imbalance)


def test_draws_of_ten_classes_have_their_sizes_and_are_nested() -> None:
    sizes, kept = class_sizes(300, 100), class_sizes(100, 20)
    train, validation = draw_classes(TEN, train=sizes, validation=kept, seed=0, member=1)
    assert np.bincount(TEN[train]).tolist() == list(sizes)
    assert np.bincount(TEN[validation]).tolist() == list(kept)
    assert not set(train) & set(validation)
    more, same = draw_classes(TEN, train=class_sizes(300, 10), validation=kept, seed=0, member=1)
    assert set(train) < set(more)
    assert validation.tolist() == same.tolist()
    other = draw_classes(TEN, train=sizes, validation=kept, seed=0, member=2)[0]
    assert len(set(other) & set(train)) < 0.7 * len(train)


@pytest.mark.parametrize(
    ("largest", "imbalance", "message"),
    [
        (100, 0.5, "imbalance must be at least 1 .*, got 0.5"),
        (0, 10, "the largest class hold an image, got 10, 0"),
        (100, float("nan"), "imbalance must be at least 1 .*, got nan"),
        (100, 300, "imbalance must leave an image of each class, got 300 for 100 of the largest. Choose one below 200"),
    ],
)
def test_sizes_that_cannot_be(largest: int, imbalance: float, message: str) -> None:
    with pytest.raises(Cifar10Error, match=message):
        class_sizes(largest, imbalance)
    with pytest.raises(Cifar10Error, match=r"class 0 \(airplane\) must have at least 600 images"):
        draw_classes(TEN, train=[500] * 10, validation=[100] * 10, seed=0, member=0)
