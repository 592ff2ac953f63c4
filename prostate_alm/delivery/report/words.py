"""The sentences of a report in the reader's language: figures in words, the same on the page and in the HTML file."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import escape

if TYPE_CHECKING:  # the command line reads texts before it needs torch
    from prostate_alm.delivery.card import ModelCard
    from prostate_alm.delivery.prediction import (
        AppliedLesionPoint,
        AppliedOperatingPoint,
        ClassesAnswer,
        LesionCandidate,
        Prediction,
    )
    from prostate_alm.delivery.report.series import ImageName
    from prostate_alm.delivery.report.views import Views
from prostate_alm.delivery.scores import calibrated

DEFAULT_LANGUAGE = "en"
LABEL_MAX = 60
EXTENDS = "extends"
"""Key of a site's own file: the language whose texts it takes where it has none."""

_SIGNS = {"positive": "▲", "negative": "▽"}
_FOLDER = resources.files("prostate_alm.delivery.report") / "languages"
_AWAY_MM = 0.1  # nearer than this, the slice is the image


class LanguageError(ValueError):
    """A language that there is not, or a file of texts that cannot be used; one line."""


@dataclass(frozen=True)
class Words:
    """What a report says: the texts of a language by key, and the label that the user gives a report.

    >>> words = read_words("en")
    >>> words("slice", n=3, of=20), words.count("positive", 1)
    ('slice 3 of 20', '1 positive study')
    """

    texts: Mapping[str, str]
    label: str = ""

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with its placeholders filled."""
        return self.texts[key].format(**values)

    def part(self, name: str) -> dict[str, str]:
        """Return the texts whose keys begin with a name, without it."""
        return {key.removeprefix(f"{name}."): text for key, text in self.texts.items() if key.startswith(f"{name}.")}

    @property
    def title(self) -> str:
        """Return the report's title with its label, by which two reports of one study are told apart."""
        return f"{self('title')}: {self.label}" if self.label else self("title")

    def number(self, value: float, form: str = "g") -> str:
        """Return a number as the language writes it."""
        return f"{value:{form}}".replace("-", "−").replace(".", self("decimal_mark"))

    def numbers(self, values: Sequence[float]) -> str:
        """Return numbers as a list for the eye: 100, 600."""
        return ", ".join(self.number(value) for value in values)

    def percent(self, share: float) -> str:
        """Return a share as a percentage; near 0 and 1 with a decimal, and never as the 0 or 100 that it is not.

        >>> [english().percent(share) for share in (0.0, 0.0001, 0.034, 0.5, 0.95, 0.996, 0.99999, 1.0)]
        ['0 %', '< 0.1 %', '3.4 %', '50 %', '95 %', '99.6 %', '> 99.9 %', '100 %']
        """
        value = 100 * share
        if value in (0, 100):
            return f"{value:.0f} %"
        if value < 0.1:
            return f"< {self.number(0.1)} %"
        if value > 99.9:
            return f"> {self.number(99.9)} %"
        return f"{value:.0f} %" if 10 <= value <= 90 else f"{self.number(round(value, 1))} %"

    def count(self, noun: str, number: int) -> str:
        """Return a number with its noun."""
        return self(f"count.{noun}.{'one' if number == 1 else 'many'}", n=number)

    def decision(self, answer: Prediction) -> str:
        """Return the decision in capitals behind its sign, which a reader without colours can tell."""
        return f"{_SIGNS[answer.decision]} {self(f'decision.{answer.decision}')}"

    def decision_reason(self, answer: Prediction, card: ModelCard) -> str:
        """Return what the decision compares."""
        point = answer.operating_point
        return self(
            "decision.at_or_above" if answer.decision == "positive" else "decision.below",
            score=self.number(answer.logit, ".2f"),
            threshold=self.number(point.threshold, ".2f"),
            probability=self.percent(calibrated(point.threshold, card.calibration)),
        )

    def meaning(self, card: ModelCard) -> str:
        """Return what positive means, which follows from the labels of the training cohort."""
        definition = card.label_definition.rstrip(". ")
        return self("result.means", definition=definition) if definition else self("result.means_unknown")

    def operating_point(self, point: AppliedOperatingPoint) -> str:
        """Return what the threshold did on the validation cohort."""
        return self(
            "point",
            tpr=self.percent(point.tpr),
            tpr_interval=self._interval(point.tpr_low, point.tpr_high),
            fpr=self.percent(point.fpr),
            fpr_interval=self._interval(point.fpr_low, point.fpr_high),
            positives=self.count("positive", point.positives),
            negatives=self.count("negative", point.negatives),
            target=self.percent(point.target_tpr),
        )

    def missed(self, point: AppliedOperatingPoint) -> str:
        """Return what a negative answer leaves open."""
        below = round((1 - point.tpr) * point.positives)
        return self(
            "missed",
            positives=self.count("positive", point.positives),
            below=below,
            share=self.percent(1 - point.tpr_low),
        )

    def calibration(self, card: ModelCard) -> str:
        """Return what the probability rests on."""
        fit = card.calibration
        samples = self.count("validation", fit.samples)
        return self("calibration", samples=samples, prevalence=self.percent(fit.prevalence))

    def agreement(self, answer: Prediction) -> str:
        """Return how many networks are on the side of the mean."""
        above = sum(logit >= answer.operating_point.threshold for logit in answer.member_logits)
        networks = self.count("network", len(answer.member_logits))
        return self("agreement", above=above, networks=networks, spread=self.number(answer.logit_std, ".2f"))

    def classes(self, found: ClassesAnswer) -> str:
        """Return the probabilities of all classes of a model of several, and what the study is called."""
        each = ", ".join(f"{name} {self.percent(probability)}" for name, probability in found.probabilities.items())
        return self("classes", called=found.called, each=each, critical=found.critical)

    def candidates(self, found: Sequence[LesionCandidate]) -> str:
        """Return the candidates of a study in one sentence."""
        return "; ".join([self.count("candidate", len(found)), *(self.candidate(one) for one in found)]) + "."

    def candidate(self, one: LesionCandidate) -> str:
        """Return number, confidence, place and volume of a candidate."""
        volume = self("lesions.ml", ml=self.number(one.volume_mm3 / 1000, ".2f"))
        told = [self.percent(one.probability), self.position(one), volume, self.part_of_gland(one)]
        return f"{self('lesions.candidate', n=one.number)}: {', '.join(part for part in told if part)}"

    def position(self, one: LesionCandidate) -> str:
        """Return where a candidate is, in mm towards the sides of the patient: L 17.1, A 31.3, F 0.4 mm."""
        sides = zip(one.position_mm, ("LR", "PA", "HF"), strict=True)
        axes = (f"{ends[value < 0]} {self.number(abs(value), '.1f')}" for value, ends in sides)
        return f"{', '.join(axes)} mm"

    def part_of_gland(self, one: LesionCandidate) -> str:
        """Return side and level of the gland, '' where nobody knows them."""
        known = (("side", one.side), ("level", one.level))
        return ", ".join(self(f"{name}.{value}") for name, value in known if value is not None)

    def lesion_point(self, point: AppliedLesionPoint) -> str:
        """Return what the threshold of the candidates did on the validation cohort."""
        return self(
            "lesions.point",
            threshold=self.percent(point.threshold_probability),
            found=self.percent(point.sensitivity),
            interval=self._interval(point.sensitivity_low, point.sensitivity_high),
            lesions=self.count("lesion", point.lesions),
            false_positives=self.number(point.false_positives_per_case, ".2g"),
            cases=self.count("validation", point.cases),
        )

    def caution(self, code: str) -> str:
        """Return in a few words what a warning is about, '' for a code that the language does not know."""
        return self.texts.get(f"caution.{code}", "")

    def _interval(self, low: float, high: float) -> str:
        return self("interval", low=self.percent(low).removesuffix(" %"), high=self.percent(high))

    def b_names(self, values: Sequence[float], computed: Sequence[bool]) -> list[str]:
        """Return the names of diffusion images: those that no scanner measured say so."""
        keys = ["b.computed" if one else "b.plain" for one in computed] or ["b.plain"] * len(values)
        return [self(key, b=self.number(value)) for key, value in zip(keys, values, strict=True)]

    def b_values(self, answer: Prediction) -> str:
        """Return which of the model's b-values the scanner measured."""
        pairs = zip(answer.b_values_s_per_mm2, answer.b_values_computed, strict=True)
        names = (self("b.computed" if one else "b.acquired", b=self.number(value)) for value, one in pairs)
        seen, acquired = "; ".join(names), self.numbers(answer.b_values_acquired_s_per_mm2)
        text = self("b.seen", seen=seen, acquired=acquired)
        return f"{text} {self('b.fit')}" if any(answer.b_values_computed) else text

    def image(self, name: ImageName) -> str:
        """Return how the archive calls the image of a slice, and how far it is away where that is another plane."""
        key = "image" if name.frame is None else "image.frame"
        parts = [self(key, series=name.series, image=name.image, frame=name.frame), *self._location(name)]
        if name.away_mm > _AWAY_MM:
            parts.append(self("image.away", mm=self.number(name.away_mm, ".1f")))
        return ", ".join(parts)

    def slice_label(self, views: Views, index: int) -> str:
        """Return the number of a slice, and below it that of its image in the T2 series."""
        lines = [self("slice", n=views.first_slice + index, of=views.slices_in_series)]
        if views.t2_images:
            name = views.t2_images[index]
            short = self("image.short", image=name.image)
            framed = short if name.frame is None else self("image.frame_short", frame=name.frame)
            lines.append(", ".join([framed, *self._location(name)]))
        return "\n".join(lines)

    def _location(self, name: ImageName) -> list[str]:
        mm = name.location_mm
        return [] if mm is None else [self("image.location", mm=self.number(mm, ".1f"))]

    def describe_slices(self, views: Views, paths: Sequence[str]) -> str:
        """Return what the figure of the slices shows for who does not see it: shares of the paths, and the peak."""
        total = float(np.abs(views.saliency).sum())
        sums = [float(np.abs(one).sum()) for one in views.saliency]
        shares = (
            f"{name} {self.percent(own / total if total else 0.0)}" for name, own in zip(paths, sums, strict=True)
        )
        first, last = (views.first_slice + index for index in (views.slices[-1], views.slices[0]))
        of, peak = views.slices_in_series, views.first_slice + views.peak
        return self("figure.slices_alt", first=first, last=last, of=of, peak=peak, shares=", ".join(shares))

    def describe_charts(self, answer: Prediction) -> str:
        """Return what the charts show for who does not see them."""
        point = answer.operating_point
        return self(
            "figure.charts_alt",
            probability=self.percent(answer.probability),
            scores="; ".join(self.number(logit, ".2f") for logit in answer.member_logits),
            score=self.number(answer.logit, ".2f"),
            threshold=self.number(point.threshold, ".2f"),
            tpr=self.percent(point.tpr),
            fpr=self.percent(point.fpr),
        )


def report_head(words: Words) -> str:
    """Return how the HTML file of each report in these words begins, by which an earlier one is known."""
    language, title = escape(words("language")), escape(words.title)
    return f'<!DOCTYPE html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'


@cache
def english() -> Words:
    """Return the texts that a report has when nothing else is asked for."""
    return read_words(DEFAULT_LANGUAGE)


def languages() -> list[str]:
    """Return the codes of the languages that come along."""
    return sorted(Path(file.name).stem for file in _FOLDER.iterdir() if file.name.endswith(".json"))


def read_words(language: str, *, label: str = "") -> Words:
    """Return the texts of a language.

    Args:
        language: one of `languages()`, or the path of a site's own JSON file, which may hold some of the keys and names
            in `extends` the language of the others (default: en).
        label: what the user calls the report.

    Raises:
        LanguageError: there is no such language or file, a key is unknown, a text has other placeholders, or the label
            is long or of several lines.

    >>> read_words("xx")
    Traceback (most recent call last):
    ...
    prostate_alm.delivery.report.words.LanguageError: language must be one that comes along or a file, got xx. \
Available: ['de', 'en', 'fr'].
    """
    if len(label) > LABEL_MAX or not label.isprintable():
        raise LanguageError(
            f"label must be one line of at most {LABEL_MAX} characters, got another. Choose a shorter one."
        )
    if language in languages():
        return Words(_shipped(language), label)
    if not Path(language).is_file():
        raise LanguageError(
            f"language must be one that comes along or a file, got {language}. Available: {languages()}."
        )
    own = _own_texts(Path(language))
    base = str(own.pop(EXTENDS, DEFAULT_LANGUAGE))
    if base not in languages():
        raise LanguageError(f"{EXTENDS} must be a language, got {base} in {language}. Available: {languages()}.")
    texts = _shipped(base)
    for key, text in own.items():
        _check_text(key, text, texts, place=language)
    return Words({**texts, **own}, label)


def placeholders(text: str) -> frozenset[str]:
    """Return what is filled in a text, as it is written there.

    >>> sorted(placeholders("slice {n} of {of}"))
    ['n', 'of']
    """
    parts = string.Formatter().parse(text)
    return frozenset(f"{name}{'!' if how else ''}{form}" for _, name, form, how in parts if name is not None)


def _shipped(language: str) -> dict[str, str]:
    content: dict[str, str] = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return content


def _own_texts(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise LanguageError(f"texts must be JSON, got something else in {path}. Correct the file.") from error
    if not isinstance(content, dict):
        raise LanguageError(f"texts must be one JSON object, got another value in {path}. Correct the file.")
    return content


def _check_text(key: str, text: object, texts: Mapping[str, str], *, place: str) -> None:
    """Refuse a text that no report asks for, or that would be filled with something else."""
    if key not in texts:
        raise LanguageError(f"keys must be those of a language that comes along, got {key!r} in {place}. Correct it.")
    try:
        found = placeholders(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if found is None or found != placeholders(texts[key]):
        wanted = sorted(placeholders(texts[key]))
        raise LanguageError(f"{key} must be a text with the placeholders {wanted}, got others in {place}. Correct it.")
