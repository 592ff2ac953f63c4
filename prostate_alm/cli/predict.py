"""The commands that answer studies: those of a user, what lies in the folders of a container, and synthetic ones."""

import argparse
import csv
import json
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prostate_alm.cli.parser import OK, SOME_REFUSED, Commands, add_executor, add_model, add_rules, print_error, say
from prostate_alm.progress import progress_bar
from prostate_alm.shipped import shipped_bundle

if TYPE_CHECKING:
    from prostate_alm.delivery.archive import ArchivedAnswer
    from prostate_alm.delivery.prediction import Answer

_DEMO = "demo.zip"
_STUDIES, _SEED = 2, 20_263  # one with a lesion, one without; of a cohort that nothing was trained on


def add_predict(commands: Commands) -> None:
    """Add `prostate-alm predict`."""
    predict = commands.add_parser(
        "predict",
        help="answer DICOM studies with a packed model",
        description="Answer each study with a probability and a decision, or refuse it with a reason: one JSON a "
        "study, answers.csv and answers.parquet in DIR. Studies answered before are not answered again: stop at any "
        "time and run the same command to go on. Exit code 1 when a study was refused. Research use only, not for "
        "diagnosis.",
        examples="predict STUDY --model prostate.zip --output answers --report\n"
        "predict export/*.zip --model prostate.zip --output answers --jobs 4 --sr --language de",
    )
    predict.add_argument(
        "studies", type=Path, nargs="+", metavar="STUDY", help="folder, zip, DICOMDIR, or folder of many studies"
    )
    add_model(predict)
    predict.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the answers")
    predict.add_argument("--target-tpr", type=float, metavar="TPR", help="operating point (default: the model's)")
    add_rules(predict)
    predict.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    add_executor(predict)
    predict.add_argument("--identify", action="store_true", help="put paths and DICOM identifiers into the answers")
    predict.add_argument(
        "--language",
        default="en",
        metavar="LANG",
        help="of report and page: en, de, fr, or a site's own JSON file of texts, see docs/report.md (default: en)",
    )
    predict.add_argument(
        "--label",
        default="",
        metavar="TEXT",
        help="written on report and page, by which two of one study are told apart",
    )
    _add_beside(predict)
    predict.add_argument("--overwrite", action="store_true", help="replace answers of other models or to other files")
    predict.add_argument("--json", action="store_true", help="print the answers as JSON")
    predict.set_defaults(action=_predict)


def _add_beside(predict: argparse.ArgumentParser) -> None:
    """Add what else is written of each study."""
    written = {
        "report": "write an HTML report of each study",
        "sr": "write a DICOM structured report of each study, of a lesion model with segmentation and map",
        "capture": "write the page of each report as a DICOM image; like --sr with the patient's identifiers, as the "
        "images",
        "saliency": "write which parts of the image moved the answer as a DICOM parametric map on the images of T2",
    }
    for kind, meaning in written.items():
        predict.add_argument(f"--{kind}", action="append_const", const=kind, dest="beside", help=meaning)


def _predict(options: argparse.Namespace) -> int:
    from prostate_alm.delivery.archive import Job, answer_archive
    from prostate_alm.delivery.package.described import describe_package
    from prostate_alm.delivery.package.trust import chosen_trust
    from prostate_alm.delivery.report.words import read_words
    from prostate_alm.delivery.sources import find_sources
    from prostate_alm.imaging.rulebook import read_rules

    sources = find_sources(options.studies)
    model = describe_package(options.model, trust=chosen_trust(options.trust))
    point = model.card.operating_point(options.target_tpr)
    job = Job(
        model=options.model,
        model_sha256=model.identity.sha256,
        target_tpr=point.target_tpr,
        identify=options.identify,
        rules=None if options.rules is None else read_rules(options.rules),
        beside=tuple(dict.fromkeys(options.beside or ())),
        words=read_words(options.language, label=options.label),
    )
    outcomes = list(
        answer_archive(
            sources,
            options.output,
            job=job,
            jobs=options.jobs,
            executor=options.executor,
            overwrite=options.overwrite,
            progress=progress_bar("answering studies", unit="source"),
        )
    )
    return OK if report_outcomes(outcomes, options.output, as_json=options.json) else SOME_REFUSED


def report_outcomes(outcomes: Sequence["ArchivedAnswer"], folder: Path, *, as_json: bool = False) -> bool:
    """Print what became of studies, and return whether all were answered."""
    if as_json:
        say(json.dumps([one.answer.model_dump(mode="json") for one in outcomes if one.conflict is None], indent=1))
    else:
        _print_outcomes(outcomes, folder)
    for one in outcomes:
        if one.conflict is not None:
            print_error(f"{one.path.name} was not written: {one.conflict}")
    return all(one.conflict is None and one.answer.status == "answered" for one in outcomes)


def _print_outcomes(outcomes: Sequence["ArchivedAnswer"], folder: Path) -> None:
    from prostate_alm.delivery.prediction import NOTICE

    for one in outcomes:
        say(_line(one.answer, one.path.stem))
    answered = sum(one.answer.status == "answered" for one in outcomes)
    kept = sum(one.kept for one in outcomes)
    before = f" ({kept} of them before)" if kept else ""
    say(f"{answered} studies answered, {len(outcomes) - answered} refused{before}: {folder}")
    say(NOTICE)


def _line(answer: Any, name: str) -> str:
    """Return one study in one line; `name` is that of its file."""
    place = f"  {answer.identity.path}" if answer.identity else ""
    if answer.status == "refused":
        return f"{name}  refused ({answer.code}): {answer.reason}{place}"
    point = answer.operating_point
    called = f", called {answer.classes.called}" if answer.classes else ""
    places = "" if answer.lesions is None else f"  candidates of lesions: {len(answer.lesions)}"
    decision = f"{answer.decision} at TPR {point.target_tpr:g}{called}{places}"
    codes = ", ".join(dict.fromkeys(warning.code for warning in answer.warnings))
    return f"{name}  probability {answer.probability:.3f}  {decision}{'  warnings: ' if codes else ''}{codes}{place}"


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
        studies=_STUDIES,
        seed=_SEED,
        positive_share=0.5,
        progress=progress_bar("making studies", unit="study"),
    )
    with (cohort / "labels.csv").open(newline="", encoding="utf-8") as stream:
        labels = {row["id"]: row["label"] for row in csv.DictReader(stream)}
    file = shipped_bundle("prostate") / _DEMO
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


def add_serve_once(commands: Commands) -> None:
    """Add `prostate-alm serve-once`."""
    serve = commands.add_parser(
        "serve-once",
        help="answer as a container: a module of mercure, an algorithm of grand-challenge, or /in and /out",
        description="Answer what lies in $MERCURE_IN_DIR as a module of mercure, in /input as an algorithm of "
        "grand-challenge, or in /in, and write to $MERCURE_OUT_DIR, /output, or /out. The packed model is "
        "$PROSTATE_ALM_MODEL, by default /model/prostate.zip, or /opt/ml/model/prostate.zip with /input. Settings: "
        "process.settings in mercure's task.json, else JSON in $PROSTATE_ALM_SETTINGS, see docs/predict.md. For the "
        "platforms a refused study is a result (exit code 0). Research use only, not for diagnosis.",
        examples="serve-once\nserve-once --root FOLDER",
    )
    serve.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="where /in, /input and /model begin (default: /)"
    )
    serve.set_defaults(action=_serve_once)


def _serve_once(options: argparse.Namespace) -> int:
    from prostate_alm.delivery.archive import Job, answer_archive
    from prostate_alm.delivery.container import chosen_exchange, is_done, settings_of, sources_of, write_result
    from prostate_alm.delivery.package.described import describe_package
    from prostate_alm.delivery.package.trust import chosen_trust
    from prostate_alm.delivery.report.words import read_words

    exchange = chosen_exchange(os.environ, root=options.root)
    settings = settings_of(exchange, os.environ)
    model = describe_package(exchange.model, trust=chosen_trust(None))
    job = Job(
        model=exchange.model,
        model_sha256=model.identity.sha256,
        target_tpr=model.card.operating_point(settings.target_tpr).target_tpr,
        identify=False,
        beside=tuple(dict.fromkeys(settings.beside)),
        words=read_words(settings.language, label=settings.label),
    )
    with sources_of(exchange) as sources:
        outcomes = list(answer_archive(sources, exchange.output_dir, job=job))
    report_outcomes(outcomes, exchange.output_dir)
    done = [one.answer for one in outcomes if one.conflict is None and is_done(exchange, one.answer)]
    if len(done) < len(outcomes):
        return SOME_REFUSED
    write_result(exchange, done)
    return OK
