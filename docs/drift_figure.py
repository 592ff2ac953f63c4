"""Draw docs/images/drift.png: twelve invented months of the demo model, of which the last three bring another scanner.

Run from the repository root: python docs/drift_figure.py
"""

from pathlib import Path

import numpy as np
from scipy.special import expit

from prostate_alm.delivery.card import ModelCard, TrainingRange
from prostate_alm.delivery.drift import Period, draw_drift, drift_of, lines_of
from prostate_alm.delivery.package.described import describe_package
from prostate_alm.delivery.prediction import (
    Acquisition,
    Answer,
    AppliedOperatingPoint,
    ModelIdentity,
    Prediction,
    Refused,
)
from prostate_alm.shipped import shipped_bundle

PICTURE = Path(__file__).parent / "images" / "drift.png"
STUDIES, MONTHS, MOVED_FROM = 25, 12, 10
B_VALUES = (100.0, 600.0, 1000.0)


def answer(card: ModelCard, model: ModelIdentity, random: np.random.Generator, month: int) -> Answer:
    """Return one invented answer: logits are drawn from the cohort's own."""
    about = {"study": f"{random.integers(1 << 60):016x}", "model": model, "series": (), "software": {}}
    if random.random() < (0.5 if month == MONTHS else 0.08):
        return Refused(code="no_t2", reason="none", **about)
    is_new = month >= MOVED_FROM
    logit = float(random.choice(card.validation.logits) + random.normal(0, 0.3))
    side_mm = 0.7 if is_new else float(random.uniform(0.4, 0.6))
    stored = card.operating_point().model_dump()
    point = {name: stored[name] for name in AppliedOperatingPoint.model_fields if name in stored}
    return Prediction(
        probability=float(expit(card.calibration.slope * logit + card.calibration.intercept)),
        decision="positive", logit=logit, logit_std=0.0, member_logits=(logit,), warnings=(),
        operating_point=AppliedOperatingPoint(**point), b_values_s_per_mm2=B_VALUES,
        b_values_acquired_s_per_mm2=(50.0, 800.0) if random.random() < 0.05 else B_VALUES,
        b_values_computed=(False,) * 3,
        acquisition=Acquisition(
            field_strength_t=1.5 if is_new else 3.0, t2_spacing_mm=(side_mm, side_mm, 3.0),
            diffusion_spacing_mm=(2.0, 2.0, 3.0), intensity_variation=tuple(random.lognormal(0, 0.1, 4).tolist()),
        ),
        **about,
    )  # fmt: skip


def main() -> None:
    model = describe_package(shipped_bundle("prostate") / "demo.zip")
    ranges = TrainingRange(
        t2_spacing_mm=((0.4, 0.6), (0.4, 0.6), (3.0, 3.0)), field_strength_t=(3.0, 3.0),
        b_values_acquired_s_per_mm2=(B_VALUES,), intensity_variation=((0.75, 1.3),) * 4,
    )  # fmt: skip
    card = model.card.model_copy(update={"training_range": ranges})
    random = np.random.default_rng(7)
    months = range(1, MONTHS + 1)
    answers = {month: tuple(answer(card, model.identity, random, month) for _ in range(STUDIES)) for month in months}
    found = drift_of([Period(f"2026-{month:02d}", own) for month, own in answers.items()], card)
    draw_drift(found, card).savefig(PICTURE, dpi=80)
    print("\n".join(lines_of(found)))


if __name__ == "__main__":
    main()
