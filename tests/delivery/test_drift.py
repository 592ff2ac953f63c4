"""Whether answers move over time: exact chances by enumeration, false alarms by simulation, moves that are found."""

import itertools
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy import stats
from scipy.special import expit

from prostate_alm.cli import main
from prostate_alm.delivery.answers import write_answer
from prostate_alm.delivery.card import ModelCard, TrainingRange, ValidationScores
from prostate_alm.delivery.drift import ALPHA, DriftError, Period, drift_of, lines_of, outside_p, read_periods
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import predict_folder
from prostate_alm.delivery.prediction import (
    Acquisition,
    Answer,
    AppliedOperatingPoint,
    ModelIdentity,
    Prediction,
    Refused,
)

B_VALUES = (100.0, 600.0, 1000.0)
COHORT, STUDIES = 60, 25
POINT = AppliedOperatingPoint(
    target_tpr=0.95, threshold=0.0, tpr=0.95, tpr_low=0.9, tpr_high=1.0, fpr=0.5, fpr_low=0.4, fpr_high=0.6,
    positives=10, negatives=20,
)  # fmt: skip


def answer(model: ModelIdentity, number: int, values: Sequence[float], **changes: Any) -> Answer:
    """Return an answer with a logit, a voxel side, a field strength and intensities, or a refusal."""
    study = f"{number:016x}"
    if changes.pop("refused", False):
        return Refused(study=study, code="no_t2", reason="none", series=(), model=model, software={})
    logit, side_mm, *intensity = values
    acquisition = Acquisition(
        field_strength_t=changes.pop("field_strength_t", 3.0),
        t2_spacing_mm=(side_mm, side_mm, 3.0),
        diffusion_spacing_mm=(2.0, 2.0, 3.0),
        intensity_variation=tuple(intensity),
    )
    return Prediction(
        study=study, probability=float(expit(logit)), decision="positive",
        logit=logit, logit_std=0.1, member_logits=(logit,),
        operating_point=POINT, b_values_s_per_mm2=B_VALUES, b_values_acquired_s_per_mm2=changes.pop("b", B_VALUES),
        b_values_computed=(False,) * 3, series=(), warnings=(), model=model, software={}, acquisition=acquisition,
    )  # fmt: skip


def draw(random: np.random.Generator, count: int) -> np.ndarray:
    """Return logit, voxel side and four intensities of studies from one source (N, 6)."""
    return np.column_stack(
        [random.normal(0, 2, count), random.uniform(0.4, 0.6, count), random.lognormal(0, 0.2, (count, 4))]
    )


def card_of(card: ModelCard, rows: np.ndarray) -> ModelCard:
    """Return a card whose cohort are these studies."""
    ends = [(float(column.min()), float(column.max())) for column in rows.T]
    trained = TrainingRange(
        t2_spacing_mm=(ends[1], ends[1], (3.0, 3.0)), field_strength_t=(3.0, 3.0),
        b_values_acquired_s_per_mm2=(B_VALUES,), intensity_variation=tuple(ends[2:]),
    )  # fmt: skip
    scores = ValidationScores(
        labels=tuple(number % 2 for number in range(len(rows))), logits=tuple(rows[:, 0].tolist())
    )
    calibration = card.calibration.model_copy(update={"slope": 1.0, "intercept": 0.0})
    return card.model_copy(update={"training_range": trained, "validation": scores, "calibration": calibration})


def series(model: PackedModel, random: np.random.Generator, *, periods: int) -> tuple[list[Period], ModelCard]:
    """Return periods from the same source as the cohort: a tenth is refused, a twentieth has other b-values."""
    card = card_of(model.card, draw(random, COHORT))
    made = []
    for k in range(periods):
        rows, refused, other = draw(random, STUDIES), random.random(STUDIES) < 0.1, random.random(STUDIES) < 0.05
        answers = tuple(
            answer(model.identity, 1000 * k + i, row.tolist(), refused=no, b=(50.0, 800.0) if b else B_VALUES)
            for i, (row, no, b) in enumerate(zip(rows, refused, other, strict=True))
        )
        made.append(Period(f"2026-{k + 1:02d}", answers))
    return made, card


@pytest.mark.parametrize(("cohort", "new"), [(2, 3), (4, 3), (5, 4)])
def test_the_chance_to_lie_outside_is_that_of_all_orders(cohort: int, new: int) -> None:
    """Of values from one source every choice of the new ones among all ranks is as likely as any other."""
    outside = []
    for chosen in itertools.combinations(range(cohort + new), new):
        rest = [rank for rank in range(cohort + new) if rank not in chosen]
        outside.append(sum(not rest[0] < rank < rest[-1] for rank in chosen))
    for count in range(new + 1):
        values = np.array([2.0] * count + [0.5] * (new - count))
        expected = np.mean([one >= count for one in outside])
        assert outside_p(values, 0.0, 1.0, cohort=cohort) == pytest.approx(expected)


def false_alarms(model: PackedModel, *, runs: int, periods: int) -> int:
    """Return in how many series from the cohort's own source anything is said to move."""
    random = np.random.default_rng(0)
    made = (series(model, random, periods=periods) for _ in range(runs))
    return sum(any(one.moved for one in drift_of(found, card)) for found, card in made)


def test_false_alarms_are_no_more_than_alpha(packed_model: PackedModel) -> None:
    alarms = false_alarms(packed_model, runs=40, periods=4)
    assert stats.binomtest(alarms, 40, ALPHA, alternative="greater").pvalue > 1e-3


@pytest.mark.slow
def test_false_alarms_of_a_year_are_no_more_than_alpha_and_some(packed_model: PackedModel) -> None:
    """docs/drift.md gives the figure."""
    alarms = false_alarms(packed_model, runs=300, periods=12)
    assert stats.binomtest(alarms, 300, ALPHA, alternative="greater").pvalue > 0.01
    assert alarms == 3


@pytest.mark.parametrize(
    ("quantity", "reference", "change"),
    [
        ("probability", "cohort", lambda row: ([row[0] + 3, *row[1:]], {})),
        ("T2 voxels", "cohort", lambda row: ([row[0], 0.8, *row[2:]], {})),
        ("intensity", "cohort", lambda row: ([*row[:5], row[5] * 3], {})),
        ("field strength", "cohort", lambda row: (row, {"field_strength_t": 1.5})),
        ("field strength", "earlier", lambda row: (row, {"field_strength_t": 1.5})),
        ("b-values", "earlier", lambda row: (row, {"b": (0.0, 1400.0)})),
        ("refusals", "earlier", lambda row: (row, {"refused": int(row[0] * 1e6) % 4 > 0})),
    ],
)
def test_what_moves_is_named_in_its_period(
    packed_model: PackedModel, quantity: str, reference: str, change: Any
) -> None:
    random = np.random.default_rng(3)
    periods, card = series(packed_model, random, periods=3)
    moved = []
    for number, row in enumerate(draw(random, STUDIES).tolist()):
        values, changes = change(row)
        moved.append(answer(packed_model.identity, 9000 + number, values, **changes))
    *before, last = drift_of([*periods, Period("2026-04", tuple(moved))], card)
    assert [one for period in before for one in period.moved] == []
    assert (quantity, reference) in {(one.quantity, one.reference) for one in last.moved}
    assert {one.quantity for one in last.moved} == {quantity}
    assert any(line.startswith(f"2026-04: {quantity} moved against") for line in lines_of([*before, last]))


def test_answers_without_acquisition_are_compared_in_what_they_say(packed_model: PackedModel) -> None:
    periods, card = series(packed_model, np.random.default_rng(1), periods=2)
    old = [
        Period(
            one.name,
            tuple(each.model_copy(update={"acquisition": None}) for each in one.answers if each.status == "answered"),
        )
        for one in periods
    ]
    names = {one.quantity for period in drift_of(old, card) for one in period.findings}
    assert names == {"probability", "b-values", "refusals"}


def test_all_periods_that_ever_come_share_alpha(packed_model: PackedModel) -> None:
    periods, card = series(packed_model, np.random.default_rng(2), periods=3)
    limits = [one.findings[0].limit for one in drift_of(periods, card)]
    assert limits == pytest.approx([ALPHA / 14 * share for share in (1 / 2, 1 / 6, 1 / 12)])
    assert sum(1 / (k * (k + 1)) for k in range(1, 10_000)) == pytest.approx(1, abs=2e-4)
    for alpha in (0.0, 1.0):
        with pytest.raises(DriftError, match="alpha must be in"):
            drift_of(periods, card, alpha=alpha)


def test_periods_are_folders_or_months(packed_model: PackedModel, tmp_path: Path) -> None:
    sha256 = packed_model.identity.sha256
    periods, _ = series(packed_model, np.random.default_rng(4), periods=2)
    for period in periods:
        for one in period.answers:
            (tmp_path / "all" / period.name).mkdir(parents=True, exist_ok=True)
            write_answer(one, tmp_path / "all" / period.name)
            (tmp_path / "flat").mkdir(exist_ok=True)
            path = write_answer(one, tmp_path / "flat")
            noon = datetime.fromisoformat(f"{period.name}-15T12:00").replace(tzinfo=UTC).timestamp()
            os.utime(path, (noon, noon))
    given = [tmp_path / "all" / period.name for period in periods]
    for folders in (given, [tmp_path / "all"], [tmp_path / "flat"]):
        found = read_periods(folders, sha256=sha256)
        assert [(one.name, len(one.answers)) for one in found] == [("2026-01", STUDIES), ("2026-02", STUDIES)]
    with pytest.raises(DriftError, match="answers must be of the model given, got 25 of another"):
        read_periods(given, sha256="0" * 64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DriftError, match="got none in"):
        read_periods([tmp_path / "empty"], sha256=sha256)


def test_the_command_tells_draws_and_ends_with_1_when_something_moved(
    packed_file: Path, packed_model: PackedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(5)
    fit = packed_model.card.calibration
    logits = fit.slope * np.array(packed_model.card.validation.logits) + fit.intercept  # log odds
    for name, shift in (("2026-01", 0.0), ("2026-02", 5.0)):
        (tmp_path / name).mkdir()
        for number in range(30):
            row = [float(random.choice(logits)) + shift, 0.5, 1.0, 1.0, 1.0, 1.0]
            write_answer(answer(packed_model.identity, number, row), tmp_path / name)
    arguments = ["drift", str(tmp_path / "2026-01"), "--model", str(packed_file)]
    assert main(arguments) == 0
    assert "nothing moved in one period" in capsys.readouterr().out
    arguments.insert(2, str(tmp_path / "2026-02"))
    assert main([*arguments, "--picture", str(tmp_path / "drift.png")]) == 1
    out = capsys.readouterr().out
    assert "2026-02: probability moved against the validation cohort, p " in out
    with Image.open(tmp_path / "drift.png") as picture:
        assert picture.size[0] >= 900
    assert main([*arguments, "--picture", "drift.doc"]) == 2
    assert "picture must be a .png, .svg or .pdf, got drift.doc" in capsys.readouterr().err


def test_an_answer_says_how_its_images_were_acquired(packed_model: PackedModel, phantom_study: Path) -> None:
    found = predict_folder(phantom_study, packed_model).answer
    assert isinstance(found, Prediction)
    assert found.acquisition is not None
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in phantom_study.rglob("*.dcm")]
    t2, dwi = (next(one for one in headers if one.SeriesNumber == number) for number in (3, 4))
    for header, spacing_mm in ((t2, found.acquisition.t2_spacing_mm), (dwi, found.acquisition.diffusion_spacing_mm)):
        down_mm, across_mm = (float(mm) for mm in header.PixelSpacing)
        assert spacing_mm[:2] == pytest.approx((across_mm, down_mm), rel=1e-5)
        assert spacing_mm[2] == pytest.approx(float(header.SpacingBetweenSlices), rel=1e-3)
    assert found.acquisition.field_strength_t == float(t2.MagneticFieldStrength)
    assert len(found.acquisition.intensity_variation) == 4
