"""Commands about ensembles, experiments and their results in MLflow."""

import argparse
import dataclasses
import json
import logging
import textwrap
from pathlib import Path
from typing import Any

from prostate_alm.cli.parser import OK, SOME_FAILED, Commands, Parser, add_executor, add_group, print_error, say
from prostate_alm.progress import progress_bar
from prostate_alm.shipped import find_bundle, find_plan

_STORE = ("--tracking-uri", "--tracking_uri")  # the bundles' keys have underscores: either is taken


def add_ensemble(commands: Commands) -> None:
    """Add the commands of `prostate-alm ensemble`."""
    group = add_group(commands, "ensemble", "members trained on different parts of the data, as one classifier")
    train = group.add_parser(
        "train",
        help="train the members of an ensemble and combine them",
        description="Train members 0, 1, ... with the bundle's own command, several at a time, combine them and log "
        "them to MLflow. All other options are overrides of the bundle, e.g. --loss a_fl --ratio 9. Members with "
        "results are not trained again, interrupted ones go on. Exit code 1 when a member failed.",
        examples="ensemble train prostate --members 10 --manifest data_manifest/mine.json\n"
        "ensemble train cifar10 --members 5 --jobs 2 --ratio 9 --loss a_fl --dataset_dir images",
        more_help=_overrides,
    )
    train.add_argument(
        "bundle", type=find_bundle, metavar="BUNDLE", help="prostate, lesions, cifar10, or a bundle's folder"
    )
    train.add_argument("--members", type=int, default=10, metavar="N", help="number of members (default: %(default)s)")
    train.add_argument("--output", type=Path, default=Path("outputs"), metavar="DIR", help="(default: %(default)s)")
    _add_execution(train)
    train.add_argument("--json", action="store_true", help="print JSON")
    train.set_defaults(action=_train_ensemble, overrides=[])
    _add_evaluate(group)
    _add_compare(group)
    _add_register(group)


def _add_evaluate(group: Commands) -> None:
    evaluate = group.add_parser(
        "evaluate",
        help="combine the finished members of an ensemble",
        description="Combine the finished members in DIR, compare them with the baseline of the same loss, and write "
        "metrics.json, predictions.csv, members.csv and roc.png into DIR. Other cohorts are for the packed ensemble: "
        "see prostate-alm sites.",
        examples="ensemble evaluate outputs/prostate/mine/bce-alm",
    )
    evaluate.add_argument("directory", type=Path, metavar="DIR", help="e.g. outputs/cifar10-0-1/1-9/bce-alm")
    evaluate.add_argument("--baseline", type=Path, metavar="DIR", help="ensemble to compare with")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(action=_evaluate_ensemble)


def _add_compare(group: Commands) -> None:
    compare = group.add_parser(
        "compare",
        help="compare ensembles of the same test samples, each with the first",
        description="Print the figures of evaluated ensembles and, of each but the first, the differences to the first "
        "with paired intervals, and DeLong's test of the AUC. Nothing is written.",
        examples="ensemble compare outputs/prostate/mine/bce-baseline outputs/prostate/mine/bce-alm",
    )
    compare.add_argument(
        "directories", type=Path, nargs="+", metavar="DIR", help="at least two, the first is compared with"
    )
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(action=_compare_ensembles)


def _compare_ensembles(options: argparse.Namespace) -> int:
    from prostate_alm.training.comparison import compare_ensembles, to_text

    rows = compare_ensembles(options.directories)
    say(json.dumps(rows, indent=1) if options.json else to_text(rows))
    return OK


def _add_register(group: Commands) -> None:
    register = group.add_parser(
        "register",
        help="register an ensemble as a model in MLflow",
        description="Register the ensemble in DIR as the next version of a model in MLflow, under an alias on request.",
        examples="ensemble register outputs/prostate/mine/bce-alm --bundle prostate --name prostate --alias champion",
    )
    register.add_argument("directory", type=Path, metavar="DIR", help="e.g. outputs/cifar10-0-1/1-9/bce-alm")
    register.add_argument("--bundle", type=find_bundle, required=True, metavar="BUNDLE", help="e.g. cifar10")
    register.add_argument("--name", required=True, metavar="NAME", help="name of the registered model")
    register.add_argument("--alias", metavar="ALIAS", help="e.g. champion; moves from an earlier version")
    register.spelt(*_STORE, metavar="URI", help="(default: MLFLOW_TRACKING_URI, sqlite:///mlflow.db)")
    register.set_defaults(action=_register_ensemble)


def _register_ensemble(options: argparse.Namespace) -> int:
    from prostate_alm import tracking
    from prostate_alm.training.ensemble_training import log_model

    uri = tracking.resolve_uri(options.tracking_uri)
    say(log_model(options.directory, options.bundle, tracking_uri=uri, register_as=options.name, alias=options.alias))
    return OK


def _add_execution(parser: Parser) -> None:
    parser.add_argument("--jobs", type=int, metavar="N", help="members at the same time (default: one per core)")
    add_executor(parser)


def _overrides() -> list[str]:
    """Return what the shipped bundles take beside the options, with its defaults, in lines."""
    from prostate_alm.shipped import bundle_names, overrides_of

    lines = ["", "overrides:", "  with their defaults; what they mean is in the README.md of each bundle"]
    for name in filter(overrides_of, bundle_names()):
        text = " ".join(f"--{key}\xa0{json.dumps(value)}" for key, value in overrides_of(name).items())
        wrapped = textwrap.wrap(text, 110, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
        lines += [f"  {name}:", *(line.replace("\xa0", " ") for line in wrapped)]
    return lines


def _train_ensemble(options: argparse.Namespace) -> int:
    from prostate_alm.training.ensemble_training import read_overrides, train_ensemble

    logging.getLogger("prostate_alm.training.fanout").setLevel(logging.INFO)  # how far the members are
    report = train_ensemble(
        options.bundle,
        members=options.members,
        overrides=read_overrides(options.overrides),
        output_root=options.output,
        jobs=options.jobs,
        executor=options.executor,
        progress=progress_bar("training members", unit="member"),
    )
    if options.json:
        failures = {str(member): reason for member, reason in report.failures.items()}
        say(json.dumps({"folder": str(report.folder), "failures": failures, "metrics": report.metrics}, indent=1))
    elif report.metrics:
        _print_ensemble(report.folder, report.metrics)
    for member, reason in sorted(report.failures.items()):
        print_error(f"member {member} failed: {reason}")
    return SOME_FAILED if report.failures else OK


def _evaluate_ensemble(options: argparse.Namespace) -> int:
    from prostate_alm.training.ensemble import evaluate_ensemble
    from prostate_alm.training.ensemble_training import baseline_of

    metrics = evaluate_ensemble(options.directory, baseline=options.baseline or baseline_of(options.directory))
    if options.json:
        say(json.dumps(metrics, indent=1))
    else:
        _print_ensemble(options.directory, metrics)
    return OK


def _print_ensemble(folder: Path, metrics: dict[str, Any]) -> None:
    from prostate_alm.training.comparison import figures_to_text

    say(figures_to_text(metrics))
    say(f"results: {folder}")


def add_experiment(commands: Commands) -> None:
    """Add the commands of `prostate-alm experiment`."""
    group = add_group(commands, "experiment", "the paper's grids and tables")
    run = group.add_parser(
        "run",
        help="train all ensembles of a plan, parameters chosen on validation data",
        description="Train the members of all cells of PLAN, choose parameters by mean validation AUC, combine the "
        "members. What is done is found again: stop at any time and run the same command to go on. Exit code 1 when a "
        "member failed.",
        examples="experiment run cifar10/first --dataset-dir images --jobs 2",
    )
    run.add_argument("plan", type=find_plan, metavar="PLAN", help="JSON file, or a shipped plan, e.g. cifar10/default")
    run.add_argument("--output", type=Path, metavar="DIR", help="(default: outputs/NAME OF THE PLAN[-seedN])")
    run.add_argument("--seed", type=int, metavar="N", help="another seed than the plan's: a replicate of its results")
    _add_execution(run)
    run.spelt("--dataset-dir", "--dataset_dir", type=Path, metavar="DIR", help="folder of the images")
    run.add_argument("--device", help="auto, cpu or cuda (default: auto)")
    run.spelt(*_STORE, default="none", metavar="URI", help="MLflow (default: none; see track sync)")
    run.add_argument("--json", action="store_true", help="print JSON")
    run.set_defaults(action=_run_experiment)
    report = group.add_parser(
        "report",
        help="write the paper's tables with the figures of an experiment",
        description="Write tables as CSV and Markdown, each figure beside the paper's, and figures of the effect; "
        "cells that are not there yet are listed. Of several folders, whose plans differ in their seed only, the mean "
        "effect over them is written, with intervals over replicates and test images.",
        examples="experiment report outputs/first",
    )
    report.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="folders of replicates, or only one")
    report.add_argument(
        "--output", type=Path, metavar="DIR", help="(default: report in DIR; report-pooled in the first)"
    )
    report.add_argument("--json", action="store_true", help="print JSON")
    report.set_defaults(action=_report_experiment)


def _run_experiment(options: argparse.Namespace) -> int:
    from prostate_alm.experiments.plan import read_plan, replicate_of
    from prostate_alm.experiments.run import run_experiment
    from prostate_alm.experiments.standing import show_standing

    logging.getLogger("prostate_alm").setLevel(logging.INFO)  # where there is no terminal, progress is lines of log
    plan, suffix = read_plan(options.plan), ""
    if options.seed is not None:
        plan, suffix = replicate_of(plan, seed=options.seed), f"-seed{options.seed}"
    local = {name: getattr(options, name) for name in ("dataset_dir", "device", "tracking_uri")}
    report = run_experiment(
        plan,
        options.output or Path("outputs", f"{plan.name}{suffix}"),
        jobs=options.jobs,
        executor=options.executor,
        local_settings={name: value for name, value in local.items() if value is not None},
        on_progress=show_standing(plan.name),
    )
    if options.json:
        say(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        say(f"{report.done} of {report.total} members, {len(report.ensembles)} ensembles")
    for folder, reason in sorted(report.failures.items()):
        print_error(f"{folder}: {reason}")
    return OK if report.is_complete else SOME_FAILED


def _report_experiment(options: argparse.Namespace) -> int:
    from prostate_alm.experiments.report import write_report

    first, *others = options.directories
    output = options.output or first / ("report-pooled" if others else "report")
    paths = write_report(options.directories, output, progress=progress_bar("comparing ensembles"))
    files = [str(path) for path in paths]
    say(json.dumps(files, indent=1) if options.json else "\n".join(files))
    return OK


def add_track(commands: Commands) -> None:
    """Add the commands of `prostate-alm track`."""
    group = add_group(commands, "track", "results in MLflow")
    sync = group.add_parser(
        "sync",
        help="log results that MLflow does not hold yet",
        description="Log each finished member and ensemble in and below DIR that the store does not hold completely, "
        "for example after a training whose MLflow server was down. Doing it again logs nothing.",
        examples="track sync outputs --tracking-uri http://127.0.0.1:5000",
    )
    sync.add_argument("directory", type=Path, nargs="?", default=Path("outputs"), metavar="DIR")
    sync.spelt(*_STORE, metavar="URI", help="(default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)")
    sync.set_defaults(action=_sync_tracking)


def _sync_tracking(options: argparse.Namespace) -> int:
    from prostate_alm import tracking

    uri = tracking.resolve_uri(options.tracking_uri)
    say(tracking.sync_results(options.directory, tracking_uri=uri, progress=progress_bar("logging results")).to_text())
    return OK
