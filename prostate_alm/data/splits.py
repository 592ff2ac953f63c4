"""Splits by patient: the test split of a cohort and the 80/20 split of each ensemble member."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

VALIDATION_SHARE = 0.2
"""Share of the training studies that a member keeps for validation (section 5.1 of the paper)."""


class SplitError(ValueError):
    """A cohort that is too small for the split asked for; the message is one line that says what to do."""


def split_patients(
    labels: Mapping[str, int], patients: Mapping[str, str], *, share: float, seed: int, purpose: str
) -> tuple[list[str], list[str]]:
    """Split study ids into a larger and a smaller part, stratified by label, a patient's studies together.

    A patient counts as positive when one of the patient's studies is.

    Args:
        labels: study id -> 0 or 1.
        patients: study id -> patient.
        share: share of the patients in the smaller part, in (0, 1); it has two at least.
        seed: the same seed gives the same split, whatever the order of the mappings.
        purpose: what the smaller part is for; used in errors only.

    Returns:
        Sorted ids of the larger part and of the smaller part.

    Raises:
        SplitError: a part would have no positive or no negative patient, which needs about 1 / share of each.

    >>> labels = {f"s{i}": int(i < 3) for i in range(10)}
    >>> large, small = split_patients(labels, {i: i for i in labels}, share=0.4, seed=0, purpose="test")
    >>> len(large), len(small), sum(labels[i] for i in small)
    (6, 4, 1)
    """
    from sklearn.model_selection import train_test_split  # takes a second, which reading a manifest need not wait for

    names = sorted({patients[study] for study in labels})
    positive = {patients[study] for study, label in labels.items() if label == 1}
    classes = [int(name in positive) for name in names]
    _require_two_of_each(classes, purpose)
    size = min(max(math.ceil(share * len(names)), 2), len(names) - 2)  # room for both classes in both parts
    large, small = train_test_split(names, test_size=size, random_state=seed, stratify=classes)
    for part in (large, small):
        _require_both_classes(part, positive, purpose)
    chosen = set(small)
    ids = sorted(labels)
    return [i for i in ids if patients[i] not in chosen], [i for i in ids if patients[i] in chosen]


def _require_two_of_each(classes: Sequence[int], purpose: str) -> None:
    for value, name in ((1, "positive"), (0, "negative")):
        count = classes.count(value)
        if count < 2:
            raise SplitError(
                f"there must be at least 2 {name} patients to set some aside for {purpose}, got {count} among "
                f"{len(classes)}. Add {name} studies."
            )


def _require_both_classes(part: Sequence[str], positive: set[str], purpose: str) -> None:
    found = {name in positive for name in part}
    if found != {True, False}:
        missing = "positive" if True not in found else "negative"
        raise SplitError(
            f"both parts of the {purpose} split must have positives and negatives, got {len(part)} patients without a "
            f"{missing} one in a part. Add {missing} studies or name the splits in the labels."
        )


def split_at_ratio(
    labels: Mapping[str, int], patients: Mapping[str, str], *, ratio: float, seed: int
) -> tuple[list[str], list[str]]:
    """Drop positives until there are `ratio` negatives for each: the class ratio 1:`ratio` of section 5.1 of the paper.

    round(negative patients / ratio) positive patients stay, or all where there are no more than that. They are drawn by
    the hash of seed and patient, so that the positives at 1:8 are among those at 1:4, whatever else is in the cohort.

    Args:
        labels: study id -> 0 or 1.
        patients: study id -> patient; one with a positive study is positive.
        ratio: N of 1:N, above 0.
        seed: other seeds keep other positives.

    Returns:
        Sorted ids that stay, and sorted ids of the patients that are dropped.

    Raises:
        SplitError: the ratio leaves no positive patient.

    >>> kept, dropped = split_at_ratio({f"s{i}": int(i < 3) for i in range(11)}, {f"s{i}": f"p{i}" for i in range(11)},
    ...     ratio=4, seed=0)
    >>> len(kept), len(dropped)
    (10, 1)
    """
    positive = {patients[study] for study, label in labels.items() if label == 1}
    negatives = len({patients[study] for study in labels} - positive)
    count = round(negatives / ratio)
    if count < 1:
        raise SplitError(
            f"ratio must leave a positive patient, got 1:{ratio:g} with {negatives} negative ones. "
            "Choose a smaller ratio."
        )
    order = sorted(positive, key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
    dropped = set(order[count:])
    ids = sorted(labels)
    return [i for i in ids if patients[i] not in dropped], [i for i in ids if patients[i] in dropped]


def member_seed(seed: int, member: int, *streams: int) -> int:
    """Return a seed for (seed, member, streams...): statistically independent, the same on every machine.

    Zeros at the end do not count: the stream 0 is that of the bare member, so number further streams from 1.

    >>> member_seed(0, 3) == member_seed(0, 3), member_seed(0, 3) == member_seed(3, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, member, *streams]).generate_state(1)[0])


def split_member(
    labels: Mapping[str, int], patients: Mapping[str, str], *, seed: int, member: int
) -> tuple[list[str], list[str]]:
    """Return the training and the validation ids of one ensemble member (random stratified 80/20, section 5.2).

    Args:
        labels: study id -> 0 or 1, training studies of the cohort only.
        patients: study id -> patient.
        seed: seed of the experiment.
        member: number of the member, from 0.

    Raises:
        SplitError: fewer positives or negatives than a member needs in both parts.

    >>> labels = {f"s{i}": int(i < 5) for i in range(15)}
    >>> train, validation = split_member(labels, {i: i for i in labels}, seed=0, member=0)
    >>> len(train), len(validation), sum(labels[i] for i in validation)
    (12, 3, 1)
    """
    return split_patients(
        labels, patients, share=VALIDATION_SHARE, seed=member_seed(seed, member), purpose="validation"
    )
