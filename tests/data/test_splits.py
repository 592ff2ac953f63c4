"""Splits against what a split must be: parts of a whole, by patient, stratified, the same for the same seed."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_alm.data.splits import SplitError, member_seed, split_at_ratio, split_member, split_patients

STUDIES = {f"study-{i:03d}": int(i % 4 == 0) for i in range(60)}
PATIENTS = {name: f"patient-{int(name[-3:]) // 2:03d}" for name in STUDIES}  # two studies each


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, str]]:
    patients = draw(st.integers(12, 40))
    studies = draw(st.lists(st.integers(0, patients - 1), max_size=30)) + list(range(patients))
    patient_of = {f"s{i}": f"p{patient}" for i, patient in enumerate(studies)}
    positive = draw(st.sets(st.integers(0, patients - 1), min_size=5, max_size=patients - 5))
    return {study: int(int(patient[1:]) in positive) for study, patient in patient_of.items()}, patient_of


@settings(deadline=None)  # the first example imports scikit-learn
@given(cohorts(), st.integers(0, 2**32 - 1), st.floats(0.2, 0.5))
def test_parts_make_the_whole_share_no_patient_and_both_have_both_classes(
    cohort: tuple[dict[str, int], dict[str, str]], seed: int, share: float
) -> None:
    labels, patients = cohort
    large, small = split_patients(labels, patients, share=share, seed=seed, purpose="test")
    assert sorted(large + small) == sorted(labels)
    assert not {patients[i] for i in large} & {patients[i] for i in small}
    for part in (large, small):
        assert {labels[i] for i in part} == {0, 1}
    assert len({patients[i] for i in small}) == math.ceil(share * len(set(patients.values())))


@settings(deadline=None)
@given(st.permutations(list(STUDIES)), st.integers(0, 5))
def test_the_order_of_rows_does_not_matter(order: list[str], seed: int) -> None:
    expected = split_patients(STUDIES, PATIENTS, share=0.25, seed=seed, purpose="test")
    shuffled = {name: STUDIES[name] for name in order}
    assert split_patients(shuffled, PATIENTS, share=0.25, seed=seed, purpose="test") == expected


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
def test_the_share_of_positives_is_that_of_the_cohort_to_one_patient(share: float) -> None:
    own = {name: name for name in STUDIES}
    _, small = split_patients(STUDIES, own, share=share, seed=3, purpose="test")
    assert abs(sum(STUDIES[i] for i in small) - 0.25 * len(small)) <= 1


def test_ten_members_differ_and_each_repeats() -> None:
    splits = [split_member(STUDIES, PATIENTS, seed=0, member=member) for member in range(10)]
    assert len({tuple(validation) for _, validation in splits}) == 10
    assert splits[7] == split_member(STUDIES, PATIENTS, seed=0, member=7)
    assert all(len(validation) == 12 for _, validation in splits)  # a fifth of the 30 patients, two studies each


def test_seeds_of_experiments_members_and_streams_all_differ() -> None:
    seeds = [member_seed(s, m, *stream) for s in range(10) for m in range(10) for stream in [(), (1,), (1, 1), (2,)]]
    assert len(set(seeds)) == len(seeds)
    assert member_seed(4, 2, 0) == member_seed(4, 2)  # as its docstring warns


def test_a_member_seed_is_the_same_on_every_machine() -> None:
    assert member_seed(1, 2) == 1596810411  # numpy promises that SeedSequence stays; another value moves all splits


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [(1, 9, "at least 2 positive patients.*got 1"), (9, 0, "at least 2 negative patients.*got 0")],
)
def test_too_few_of_a_class_is_refused(positives: int, negatives: int, message: str) -> None:
    labels = {f"s{i}": int(i < positives) for i in range(positives + negatives)}
    with pytest.raises(SplitError, match=message):
        split_member(labels, {i: i for i in labels}, seed=0, member=0)


def test_positives_that_stratification_cannot_share_out_are_refused() -> None:
    labels = {f"s{i:02d}": int(i < 2) for i in range(30)}
    with pytest.raises(SplitError, match="without a positive one"):
        split_member(labels, {i: i for i in labels}, seed=0, member=0)


def test_four_patients_are_enough_for_a_test_split() -> None:
    labels = {"a": 1, "b": 1, "c": 0, "d": 0}
    large, small = split_patients(labels, {i: i for i in labels}, share=0.25, seed=0, purpose="test")
    assert sorted(labels[i] for i in large) == sorted(labels[i] for i in small) == [0, 1]


def cohort_of(positives: int, negatives: int) -> tuple[dict[str, int], dict[str, str]]:
    """Two studies a patient, of which only the first of a positive patient is positive."""
    labels = {f"{i}-{k}": int(i < positives and k == 0) for i in range(positives + negatives) for k in range(2)}
    return labels, {study: f"p{study.split('-')[0]}" for study in labels}


@pytest.mark.parametrize(("ratio", "left"), [(8, 26), (4, 52), (2.5, 84), (2, 90), (0.1, 90)])
def test_a_class_ratio_drops_whole_positive_patients(ratio: float, left: int) -> None:
    labels, patients = cohort_of(90, 210)
    kept, dropped = split_at_ratio(labels, patients, ratio=ratio, seed=0)
    assert sorted([*kept, *dropped]) == sorted(labels)
    assert sum(labels[study] for study in kept) == left
    assert not {patients[study] for study in kept} & {patients[study] for study in dropped}
    assert all(int(patient[1:]) < 90 for patient in {patients[study] for study in dropped})


def test_positives_of_a_larger_ratio_are_among_those_of_a_smaller_one_and_do_not_hang_on_the_others() -> None:
    labels, patients = cohort_of(90, 210)
    at = {ratio: set(split_at_ratio(labels, patients, ratio=ratio, seed=0)[0]) for ratio in (4, 8, 16)}
    assert at[16] < at[8] < at[4]
    negatives = {study for study, patient in patients.items() if int(patient[1:]) >= 90}
    fewer = {study: label for study, label in labels.items() if study not in sorted(negatives)[:280]}  # 70 are left
    at_fewer = set(split_at_ratio(fewer, patients, ratio=8 / 3, seed=0)[0])
    assert {study for study in at_fewer if study not in negatives} == {s for s in at[8] if s not in negatives}
    assert split_at_ratio(dict(reversed(labels.items())), patients, ratio=8, seed=0)[0] == sorted(at[8])
    assert set(split_at_ratio(labels, patients, ratio=8, seed=1)[0]) != at[8]


def test_a_ratio_that_leaves_no_positive_is_refused() -> None:
    labels, patients = cohort_of(3, 7)
    with pytest.raises(SplitError, match=r"^ratio must leave a positive patient, got 1:15 with 7 negative ones\."):
        split_at_ratio(labels, patients, ratio=15, seed=0)
