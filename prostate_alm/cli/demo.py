"""The command that shows an answer within a minute: synthetic studies, and a packed model that was trained on such."""

import argparse
import csv
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from prostate_alm.cli.parser import OK, Commands, say
from prostate_alm.progress import progress_bar
from prostate_alm.shipped import shipped_bundle

if TYPE_CHECKING:
    from prostate_alm.delivery.prediction import Answer

MODEL = "demo.zip"
STUDIES, SEED = 2, 20_263  # one with a lesion, one without; of a cohort that nothing was trained on


def add_demo(commands: Commands) -> None:
    """Add `prostate-alm demo`."""
    demo = commands.add_parser(
        "demo",
        help="answer synthetic studies with the model that comes along, and show a report",
        description="Make two synthetic studies, with a lesion and without, answer them with the packed model that "
        "comes along, and show the report of the first in the browser. The model was trained on synthetic studies: it "
        "says nothing about patients.",
        examples="demo --output demo",
    )
    demo.add_argument(
        "--output", type=Path, default=Path("demo"), metavar="DIR", help="studies and answers (default: %(default)s)"
    )
    demo.set_defaults(action=_demo)


def _demo(options: argparse.Namespace) -> int:
    from prostate_alm.delivery.archive import Job, answer_archive
    from prostate_alm.delivery.package.described import describe_package
    from prostate_alm.delivery.prediction import NOTICE
    from prostate_alm.phantom.cohort import make_cohort

    cohort = make_cohort(
        options.output / "studies",
        studies=STUDIES,
        seed=SEED,
        positive_share=0.5,
        progress=progress_bar("making studies", unit="study"),
    )
    with (cohort / "labels.csv").open(newline="", encoding="utf-8") as stream:
        labels = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    file = shipped_bundle("prostate") / MODEL
    model = describe_package(file)
    job = Job(file, model.identity.sha256, model.card.default_target_tpr, identify=False, beside=("report",))
    studies = sorted(labels, key=lambda study: labels[study], reverse=True)
    outcomes = list(answer_archive([cohort / study for study in studies], options.output / "answers", job=job))
    for study, outcome in zip(studies, outcomes, strict=True):
        truth = "with a lesion" if labels[study] == "1" else "without a lesion"
        say(f"{study}, {truth}: {_found(outcome.answer)}: {outcome.path.with_suffix('.html')}")
    say(f"{model.card.name}: {model.card.members} members trained on synthetic studies. {NOTICE}")
    if sys.stdout.isatty():
        webbrowser.open(outcomes[0].path.with_suffix(".html").absolute().as_uri())
    return OK


def _found(answer: "Answer") -> str:
    if answer.status == "refused":
        return f"refused ({answer.code}), {answer.reason}"
    return f"{answer.decision}, probability {answer.probability:.3f}"
