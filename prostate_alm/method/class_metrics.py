"""How good K logits are where one class is critical: what the others pay for finding nearly all of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prostate_alm.method.metrics import Floats, threshold_at_tpr

Classes = NDArray[np.int64]


def critical_scores(logits: ArrayLike, critical: int, *, rivals: Sequence[int] | None = None) -> Floats:
    """Return the log-odds of a class against its rivals: z_c - log Σ_{k in rivals} exp z_k.

    Samples whose logits differ by a common offset, or by the order of the rivals, tie to the last bit.

    Args:
        logits: (n, K), finite.
        critical: c.
        rivals: other classes; all others when None.

    Returns:
        (n,); the sigmoid is the softmax probability of c.

    Raises:
        ValueError: a shape, a logit or a class is wrong.

    >>> critical_scores([[0.0, 0.0, 2.0]], 2, rivals=[0])
    array([2.])
    """
    values = _logits(logits)
    (number,) = require_critical([critical], classes=values.shape[1])
    others = [k for k in range(values.shape[1]) if k != number] if rivals is None else list(rivals)
    gaps = np.sort(values[:, others] - values[:, [number]], axis=1)  # (n, rivals), ascending
    top = gaps[:, -1]
    return np.asarray(-(top + np.log(np.exp(gaps - top[:, None]).sum(axis=1))))


def decide(logits: ArrayLike, thresholds: Mapping[int, float]) -> Classes:
    """Return the class that each sample is called.

    The critical classes are tried in the order of the mapping: the first whose log-odds against the classes after it
    (and all that are not critical) reach its threshold. Where none does, the greatest logit of the classes without a
    threshold decides; of equal ones the lowest number.

    Args:
        logits: (n, K), finite.
        thresholds: of each critical class, the gravest first.

    Returns:
        (n,), 0..K-1.

    Raises:
        ValueError: a shape, a logit or a class is wrong.

    >>> decide([[2.0, 1.0, 0.0], [2.0, 1.0, 1.9]], {2: -1.0}).tolist()
    [0, 2]
    """
    values = _logits(logits)
    critical = require_critical(tuple(thresholds), classes=values.shape[1])
    rest = np.array([k for k in range(values.shape[1]) if k not in critical])
    called = rest[values[:, rest].argmax(axis=1)]
    rivals = rivals_of(critical, classes=values.shape[1], ordered=True)
    for number in reversed(critical):
        called[critical_scores(values, number, rivals=rivals[number]) >= thresholds[number]] = number
    return np.asarray(called, dtype=np.int64)


def rest_error_at_tpr(labels: ArrayLike, logits: ArrayLike, *, critical: int, tpr: float) -> float:
    """Return the error of the other classes where the threshold finds the share `tpr` of the critical one.

    The share of the samples of other classes that are called another class than their own: the critical one, because
    their score reaches the threshold, or a wrong one below it. The threshold is the highest that finds the share.

    Args:
        labels: (n,), 0..K-1; the critical class and another one present.
        logits: (n, K), finite.
        critical: c.
        tpr: in (0, 1].

    Returns:
        In [0, 1]; at least the FPR at that TPR.

    Raises:
        ValueError: a label, a logit, a shape or `tpr` is wrong, or the critical class or all others are absent.

    Reference:
        The figure that ranking regularisation reports for a critical class among ten (Kiarash et al., CVPR 2023).

    >>> rest_error_at_tpr([0, 0, 1, 2], [[3, 0, 0], [0, 2, 0], [0, 3, 0], [1, 0, 1]], critical=2, tpr=1.0)
    0.3333333333333333
    """
    reduced = one_against_rest(labels, logits, critical=critical)
    return rest_error_of_columns(*reduced, tpr=tpr)


def mean_rest_accuracy(is_critical: ArrayLike, columns: NDArray[Any]) -> float:
    """Return 1 - rest error in the mean over all TPRs from 0 to 1, of what `one_against_rest` returned.

    It is the mean over the other samples of P(a critical one scores higher), ties half, where the arg-max of the others
    is right, and 0 where it is wrong. For two classes it is the AUC: it orders states of a network of several, and
    sees what they make of the other classes, too.

    >>> mean_rest_accuracy([1, 1, 0, 0], np.array([[3.0, 0], [1.0, 0], [2.0, 1], [0.0, 0]]))
    0.25
    """
    truth = np.asarray(is_critical, dtype=bool)
    positive, scores, right = np.sort(columns[truth, 0]), columns[~truth, 0], columns[~truth, 1] > 0
    not_above = np.searchsorted(positive, scores, side="left") + np.searchsorted(positive, scores, side="right")
    return float(np.mean(np.where(right, 1.0 - not_above / (2.0 * len(positive)), 0.0)))


def one_against_rest(labels: ArrayLike, logits: ArrayLike, *, critical: int) -> tuple[NDArray[np.bool_], Floats]:
    """Return what the figures of one critical class are made of: whether a sample is critical, and two columns.

    Args:
        labels: (n,), 0..K-1.
        logits: (n, K), finite.
        critical: c.

    Returns:
        (n,), and (n, 2): the critical score, and 1 where the greatest logit of the others is that of the sample's
        class. Samples can be drawn from both, as `bootstrap_interval` does.

    Raises:
        ValueError: a label, a logit or a shape is wrong.
    """
    values = _logits(logits)
    truth = class_labels(labels, classes=values.shape[1], count=len(values))
    scores = critical_scores(values, critical)
    right = decide(values, {critical: np.inf}) == truth
    return truth == critical, np.stack([scores, right.astype(np.float64)], axis=1)


def rest_error_of_columns(is_critical: ArrayLike, columns: NDArray[Any], *, tpr: float) -> float:
    """Return `rest_error_at_tpr` of what `one_against_rest` returned."""
    truth = np.asarray(is_critical, dtype=bool)
    threshold = threshold_at_tpr(truth.astype(np.int64), columns[:, 0], tpr)
    scores, right = columns[~truth, 0], columns[~truth, 1] > 0
    return float(np.mean((scores >= threshold) | ~right))


def confusion_table(labels: ArrayLike, called: ArrayLike, *, classes: int) -> Classes:
    """Return how many samples of each class (rows) were called which class (columns).

    Args:
        labels: (n,), 0..K-1.
        called: (n,), 0..K-1, see `decide`.
        classes: K.

    Returns:
        (K, K); its sum is n.

    Raises:
        ValueError: a label or a shape is wrong.

    >>> confusion_table([0, 0, 1], [0, 1, 1], classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    truth = class_labels(labels, classes=classes)
    answers = class_labels(called, classes=classes, count=len(truth))
    return np.bincount(truth * classes + answers, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(labels: ArrayLike, called: ArrayLike, *, classes: int) -> float:
    """Return the mean over the classes that are present of the share of their samples that are called rightly.

    Args:
        labels: (n,), 0..K-1, at least one.
        called: (n,), 0..K-1; the arg-max of the logits, or `decide`.
        classes: K.

    Raises:
        ValueError: a label or a shape is wrong.

    Reference:
        Brodersen et al. 2010, doi:10.1109/ICPR.2010.764.

    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 1, 1], classes=2)
    0.8333333333333333
    """
    table = confusion_table(labels, called, classes=classes)
    present = table.sum(axis=1) > 0
    return float(np.mean(np.diag(table)[present] / table.sum(axis=1)[present]))


def class_labels(labels: ArrayLike, *, classes: int, count: int | None = None) -> Classes:
    """Return labels as whole numbers.

    Args:
        labels: (n,), 0..K-1, n at least 1.
        classes: K.
        count: n where it is known.

    Raises:
        ValueError: a label or the shape is wrong.
    """
    found = np.asarray(labels)
    if found.ndim != 1 or not len(found) or (count is not None and len(found) != count):
        wanted = "n >= 1" if count is None else count
        raise ValueError(f"labels must have shape ({wanted},), got {found.shape} in class_metrics")
    wrong = found[~np.isin(found, np.arange(classes))]
    if len(wrong):
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, got {wrong[0]} in class_metrics")
    return found.astype(np.int64)


def _logits(logits: ArrayLike) -> Floats:
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"logits must have shape (n, K) with K >= 2, got {values.shape} in class_metrics")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"logits must be finite, got {values[row].tolist()} at index {row} in class_metrics")
    return values


def require_critical(critical: Sequence[int] | Mapping[int, Any], *, classes: int) -> tuple[int, ...]:
    """Return the critical classes.

    Raises:
        ValueError: one is unknown or there twice, there is none, or no other class is left.

    >>> require_critical([3, 5], classes=10)
    (3, 5)
    """
    numbers = tuple(critical)
    place = f"got {list(numbers)} of {classes} classes"
    if unknown := [c for c in numbers if c not in range(classes)]:
        raise ValueError(f"critical must be classes from 0 to {classes - 1}, got {unknown[0]!r} in {list(numbers)}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"critical must name each class once, {place}")
    if not 0 < len(numbers) < classes:
        raise ValueError(f"critical must name at least one class and leave at least one, {place}")
    return numbers


def rivals_of(critical: Sequence[int], *, classes: int, ordered: bool) -> dict[int, tuple[int, ...]]:
    """Return the classes that each critical class is ranked against: all others, or those that are less grave.

    >>> rivals_of([2, 0], classes=4, ordered=True)
    {2: (0, 1, 3), 0: (1, 3)}
    """
    left_out = [set(critical[: place + 1]) if ordered else {c} for place, c in enumerate(critical)]
    return {c: tuple(k for k in range(classes) if k not in out) for c, out in zip(critical, left_out, strict=True)}


def suffix_of(critical: int, among: Sequence[int]) -> str:
    """Return the ending of the names of a critical class's figures, empty where it is the only one.

    >>> suffix_of(3, [3]), suffix_of(3, [3, 5])
    ('', '_class3')
    """
    return "" if len(among) == 1 else f"_class{critical}"
