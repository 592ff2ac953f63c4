"""Who is a positive in the synthetic cohort: the lesion's true conspicuity and a noisy reader's verdict on it.

The reader perceives p = c + e, with e normal of standard deviation `reader_noise_sd(difficulty)`, and asks
for contrast (label 1) when p lies within `EQUIVOCAL_BAND`: below it there is nothing to see, above it nothing
left to ask. An observer who knows c, but not e, cannot do better than P(label = 1 | c); `observer_auc` is the
area under that observer's curve.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EQUIVOCAL_BAND = (0.30, 0.84)
FINDINGS = ("none", "unmistakable", "equivocal")
"""What the reader says of a study: below the band, above it, within."""
DEFAULT_DIFFICULTY = 0.25


@dataclass(frozen=True)
class Population:
    """One kind of study: its share before labels are drawn and the range of the true conspicuity."""

    kind: str
    share: float
    conspicuity_low: float
    conspicuity_high: float


DEFAULT_LESIONS = "separate"
POPULATIONS = {
    "separate": (
        Population("no lesion", 0.56, 0.0, 0.0),
        Population("equivocal", 0.30, 0.46, 0.70),
        Population("unmistakable", 0.14, 0.97, 1.0),
    ),
    "graded": (
        Population("no lesion", 0.20, 0.0, 0.0),
        Population("graded", 0.80, 0.05, 1.0),
    ),
}
"""Kinds of studies by the name of a cohort's `lesions`: far from the band's edges, or across them."""


def populations(lesions: str) -> tuple[Population, ...]:
    """Return the kinds of studies of a cohort.

    Args:
        lesions: separate or graded.

    Raises:
        ValueError: for another name.

    >>> [population.kind for population in populations("graded")]
    ['no lesion', 'graded']
    """
    if lesions not in POPULATIONS:
        raise ValueError(
            f"lesions must be one of {', '.join(POPULATIONS)}, got {lesions!r} in the phantom's parameters. "
            "docs/phantom.md says what they are."
        )
    return POPULATIONS[lesions]


def check_difficulty(difficulty: float) -> float:
    """Return the difficulty, or raise where it is outside [0, 1].

    Args:
        difficulty: 0 (plain) to 1 (barely possible), no unit.

    Raises:
        ValueError: outside [0, 1], or not a number.

    >>> check_difficulty(0.25)
    0.25
    """
    if not 0.0 <= difficulty <= 1.0:
        raise ValueError(
            f"difficulty must be within [0, 1], got {difficulty} in the phantom's parameters. "
            f"The default is {DEFAULT_DIFFICULTY}."
        )
    return float(difficulty)


def reader_noise_sd(difficulty: float) -> float:
    """Return the standard deviation of the reader's error on the conspicuity.

    sd(d) = 0.03 + 0.30 d

    Args:
        difficulty: within [0, 1].

    Raises:
        ValueError: for a difficulty outside [0, 1].

    >>> round(reader_noise_sd(0.5), 3)
    0.18
    """
    return 0.03 + 0.30 * check_difficulty(difficulty)


def equivocal_probability(conspicuity: NDArray[np.float64], difficulty: float) -> NDArray[np.float64]:
    """Probability that the reader calls a lesion of this conspicuity equivocal.

    P(label = 1 | c) = Phi((high - c) / sd) - Phi((low - c) / sd)

    Args:
        conspicuity: true conspicuity, any shape, within [0, 1].
        difficulty: within [0, 1].

    Returns:
        Probabilities, the shape of `conspicuity`; empty for an empty array.

    Raises:
        ValueError: for a difficulty outside [0, 1].

    >>> equivocal_probability(np.array([0.0, 0.6, 1.0]), 0.0).round(3).tolist()
    [0.0, 1.0, 0.0]
    """
    low, high = EQUIVOCAL_BAND
    scale = math.sqrt(2.0) * reader_noise_sd(difficulty)
    error_function = np.vectorize(math.erf, otypes=[np.float64])
    values = np.asarray(conspicuity, dtype=np.float64)
    upper = error_function((high - values) / scale)
    lower = error_function((low - values) / scale)
    return np.asarray(0.5 * (upper - lower), dtype=np.float64)


def observer_auc(difficulty: float = DEFAULT_DIFFICULTY, *, lesions: str = DEFAULT_LESIONS, nodes: int = 2000) -> float:
    """Area under the ROC curve of an observer who knows the true conspicuity.

    AUC = P(s(c+) > s(c-)) + P(s(c+) = s(c-)) / 2 with s(c) = P(label = 1 | c), c+ drawn given label 1 and c-
    given label 0; the integrals over c are midpoint sums, the studies without a lesion one atom at c = 0.

    Args:
        difficulty: within [0, 1].
        lesions: separate or graded, see `POPULATIONS`.
        nodes: midpoints for each population, >= 1.

    Returns:
        The AUC within [0.5, 1]. It does not depend on the share of positives.

    Raises:
        ValueError: for a difficulty outside [0, 1], other lesions or nodes < 1.

    Reference:
        Mann and Whitney 1947; `docs/phantom.md`, the section on the observer.

    >>> round(observer_auc(0.0), 3)
    1.0
    """
    if nodes < 1:
        raise ValueError(f"nodes must be >= 1, got {nodes} in observer_auc. The default is 2000.")
    midpoints = (np.arange(nodes) + 0.5) / nodes
    conspicuity = np.concatenate(
        [p.conspicuity_low + (p.conspicuity_high - p.conspicuity_low) * midpoints for p in populations(lesions)]
    )
    share = np.repeat([p.share / nodes for p in populations(lesions)], nodes)
    score = equivocal_probability(conspicuity, difficulty)
    _, rank = np.unique(score.round(12), return_inverse=True)
    positive = np.bincount(rank, weights=share * score)
    negative = np.bincount(rank, weights=share * (1.0 - score))
    below = np.cumsum(negative) - negative
    return float(positive @ (below + 0.5 * negative) / (positive.sum() * negative.sum()))


@dataclass(frozen=True)
class Verdict:
    """What is true of one study and what the reader said of it."""

    kind: str
    conspicuity: float
    perceived: float
    label: int

    @property
    def finding(self) -> str:
        """Which of `FINDINGS` the reader's is.

        >>> Verdict("equivocal", 0.8, 0.9, 0).finding
        'unmistakable'
        """
        if self.label:
            return "equivocal"
        return "none" if self.perceived <= EQUIVOCAL_BAND[0] else "unmistakable"


def draw_verdict(label: int, rng: np.random.Generator, *, difficulty: float, lesions: str = DEFAULT_LESIONS) -> Verdict:
    """Draw a study given its label, by rejection: c from the populations, e from the reader, until they give
    the label.

    Args:
        label: 0 or 1.
        rng: source of randomness; advanced.
        difficulty: within [0, 1].
        lesions: separate or graded, see `POPULATIONS`.

    Returns:
        The kind of study, its true and its perceived conspicuity, and the label.

    Raises:
        ValueError: for another label, a difficulty outside [0, 1] or other lesions.

    >>> draw_verdict(1, np.random.default_rng(0), difficulty=0.0).kind
    'equivocal'
    """
    if label not in (0, 1):
        raise ValueError(f"label must be 0 or 1, got {label} in draw_verdict. 1 means an equivocal lesion.")
    noise_sd = reader_noise_sd(difficulty)
    kinds = populations(lesions)
    shares = [population.share for population in kinds]
    low, high = EQUIVOCAL_BAND
    while True:
        population = kinds[int(rng.choice(len(kinds), p=shares))]
        conspicuity = float(rng.uniform(population.conspicuity_low, population.conspicuity_high))
        perceived = conspicuity + float(rng.normal(0.0, noise_sd))
        if int(low < perceived < high) == label:
            return Verdict(population.kind, conspicuity, perceived, label)


def label_of(index: int, *, seed: int, positive_share: float) -> int:
    """Label of study `index`: the positives of every block of ten studies are exact, their order is drawn.

    Block b (studies 10 b + 1 ... 10 b + 10) holds round(10 (b + 1) s) - round(10 b s) positives, so that the
    share s is held by every number of whole blocks and study i never depends on how many studies are asked
    for.

    Args:
        index: number of the study, from 1.
        seed: seed of the cohort, >= 0.
        positive_share: s, strictly between 0 and 1.

    Raises:
        ValueError: for an index < 1, a negative seed or a share outside (0, 1).

    >>> sum(label_of(index, seed=0, positive_share=0.3) for index in range(1, 61))
    18
    """
    if index < 1:
        raise ValueError(f"index must be >= 1, got {index} in the phantom's parameters. Studies count from 1.")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed} in the phantom's parameters. Any whole number will do.")
    if not 0.0 < positive_share < 1.0:
        raise ValueError(
            f"positive_share must be strictly between 0 and 1, got {positive_share} in the phantom's parameters. "
            "The paper's 1:2 is 0.3."
        )
    block, place = divmod(index - 1, 10)
    positives = round(10 * (block + 1) * positive_share) - round(10 * block * positive_share)
    order = np.random.default_rng([seed, block, 10]).permutation(10)
    return int(order[place] < positives)
