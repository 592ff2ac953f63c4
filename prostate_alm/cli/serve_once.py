"""The command that a container runs where no other is named: answer what was put into its folders, and end."""

import argparse
import os
from pathlib import Path

from prostate_alm.cli.parser import OK, SOME_REFUSED, Commands
from prostate_alm.cli.predict import report_outcomes


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
