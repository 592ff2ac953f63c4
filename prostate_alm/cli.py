"""The command line: argument parsing and printing, nothing else."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from prostate_alm import __version__
from prostate_alm.progress import progress_bar

OK, SOME_REFUSED, USAGE_ERROR = 0, 1, 2
SOME_FAILED = SOME_REFUSED
INTERRUPTED, READER_GONE = 130, 141
"""128 plus the number of the signal, as shells count: SIGINT, SIGPIPE."""

_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and that takes no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"error: {message}. See: {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `prostate-alm`.

    Returns:
        0 on success, 1 when a manifest was built without some refused studies or a member of an ensemble failed, 2 for
        input that cannot be used, 130 when interrupted, 141 when the reader of the output has gone (as `head` does).
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        options = _parse(arguments)
        code: int = options.action(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # what is left in the buffer must not be tried again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (ValueError, OSError) as error:
        _print_error(_one_line(error))
        return USAGE_ERROR
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not break into the farewell
        print("interrupted; what was finished is kept, run the same command to go on", file=sys.stderr)
        return INTERRUPTED
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; commands that pass the rest on to a bundle take it as `overrides`."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not hasattr(options, "overrides"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest
    return options


def _print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> _Parser:
    parser = _Parser(prog="prostate-alm", description="Classifiers that must not miss the critical class.")
    parser.add_argument("--version", action="version", version=f"prostate-alm {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_phantom(commands)
    _add_study(commands)
    _add_manifest(commands)
    _add_ensemble(commands)
    _add_track(commands)
    return parser


def _group(commands: _Commands, name: str, text: str) -> _Commands:
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(title="commands", required=True, metavar="COMMAND")


def _add_phantom(commands: _Commands) -> None:
    group = _group(commands, "phantom", "synthetic studies")
    make = group.add_parser(
        "make",
        help="write a synthetic cohort as DICOM studies",
        description="Write OUTPUT/PHANTOM-0001/... as DICOM, labels.csv for `manifest build`, and truth.csv. "
        "Studies that are there already are kept.",
    )
    make.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the cohort")
    make.add_argument("--studies", type=int, default=60, help="number of studies (default: %(default)s)")
    make.add_argument("--seed", type=int, default=0, help="same seed, same studies (default: %(default)s)")
    make.add_argument(
        "--difficulty", type=float, help="0 is easiest; see docs/phantom.md (default: as documented there)"
    )
    make.add_argument(
        "--b-values",
        type=float,
        nargs="+",
        metavar="B",
        help="acquired b-values in s/mm2 (default: those of the paper, 100 600 1000)",
    )
    make.set_defaults(action=_make_phantom)


def _make_phantom(options: argparse.Namespace) -> int:
    from prostate_alm.imaging.phantom import make_cohort

    # absent options are not passed on: the defaults are those of make_cohort
    chosen = {"difficulty": options.difficulty, "b_values_s_per_mm2": options.b_values and tuple(options.b_values)}
    folder = make_cohort(
        options.output,
        studies=options.studies,
        seed=options.seed,
        progress=progress_bar("making studies", unit="study"),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    print(f"{options.studies} studies with labels.csv: {folder}")
    return OK


def _add_study(commands: _Commands) -> None:
    group = _group(commands, "study", "one DICOM study")
    explain = group.add_parser(
        "explain",
        help="say which series would be used, and why",
        description="Say for each series of a DICOM study what it is taken for, whether it is used, and why. "
        "Exit code 2 when the study cannot be used.",
    )
    explain.add_argument("directory", type=Path, metavar="DIR", help="folder of the study, searched recursively")
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.set_defaults(action=_explain_study)


def _explain_study(options: argparse.Namespace) -> int:
    from prostate_alm.imaging.study import explain_study

    selection = explain_study(options.directory)
    print(json.dumps(selection.to_dict(), indent=1) if options.json else selection.to_text())
    if selection.refused is None:
        return OK
    _print_error(f"{selection.refused.code}: {selection.refused.reason}")
    return USAGE_ERROR


def _add_manifest(commands: _Commands) -> None:
    group = _group(commands, "manifest", "the list of a cohort's studies")
    build = group.add_parser(
        "build",
        help="convert a cohort's studies and write its manifest",
        description="Convert each labelled study (DICOM_DIR/<id>) once and write the manifest. Studies that cannot be "
        "used are listed with the reason and do not stop the others (exit code 1).",
    )
    build.add_argument("dicom_dir", type=Path, metavar="DICOM_DIR", help="folder with one sub-folder per study")
    build.add_argument("--labels", type=Path, required=True, metavar="CSV", help="columns id, label[, patient, split]")
    build.add_argument("--output", type=Path, required=True, metavar="JSON", help="manifest; volumes go beside it")
    build.add_argument("--test-share", type=float, default=0.25, help="share of test patients (default: %(default)s)")
    build.add_argument("--seed", type=int, default=0, help="seed of the test split (default: %(default)s)")
    build.add_argument("--source", default="", metavar="TEXT", help="where the studies come from")
    build.add_argument("--label-definition", default="", metavar="TEXT", help="what label 1 means")
    build.add_argument("--licence", default="", metavar="TEXT", help="licence of the data")
    build.add_argument("--overwrite", action="store_true", help="replace a manifest that is there")
    build.add_argument("--workers", type=int, metavar="N", help="largest number of processes (default: one per core)")
    build.add_argument("--json", action="store_true", help="print JSON")
    build.set_defaults(action=_build_manifest)
    check = group.add_parser(
        "check",
        help="check a manifest and the checksums of its volumes",
        description="Check a manifest against its schema and each volume against its checksum (exit code 2: faults).",
    )
    check.add_argument("manifest", type=Path, metavar="JSON")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(action=_check_manifest)


def _build_manifest(options: argparse.Namespace) -> int:
    from prostate_alm.data.build import build_manifest
    from prostate_alm.data.workers import available_workers

    result = build_manifest(
        options.dicom_dir,
        options.labels,
        output=options.output,
        test_share=options.test_share,
        seed=options.seed,
        source=options.source,
        label_definition=options.label_definition,
        licence=options.licence,
        overwrite=options.overwrite,
        workers=available_workers() if options.workers is None else options.workers,
        progress=progress_bar("reading studies", unit="study"),
    )
    refused = result.manifest.refused
    if options.json:
        summary = {
            "manifest": str(options.output),
            "studies": len(result.manifest.studies),
            "refused": [study.model_dump() for study in refused],
            "unlabelled": len(result.unlabelled),
        }
        print(json.dumps(summary, indent=1))
    else:
        print(f"{len(result.manifest.studies)} studies: {options.output}")
        for study in refused:
            print(f"refused {study.id} ({study.code}): {study.reason}")
        if result.unlabelled:
            print(f"{len(result.unlabelled)} folders have no label and were left out")
    return SOME_REFUSED if refused else OK


def _check_manifest(options: argparse.Namespace) -> int:
    from prostate_alm.data.manifest import check_files, read_manifest

    manifest = read_manifest(options.manifest)
    faults = check_files(manifest, options.manifest, progress=progress_bar("checking volumes", unit="study"))
    if options.json:
        print(json.dumps({"studies": len(manifest.studies), "faults": faults}, indent=1))
    elif not faults:
        print(f"{len(manifest.studies)} studies, all volumes as the manifest says")
    for fault in faults:
        _print_error(fault)
    return USAGE_ERROR if faults else OK


def _add_ensemble(commands: _Commands) -> None:
    group = _group(commands, "ensemble", "members trained on different parts of the data, as one classifier")
    train = group.add_parser(
        "train",
        help="train the members of an ensemble and combine them",
        description="Train members 0, 1, ... with the bundle's own command, several at a time, combine them and log "
        "them to MLflow. All other options are overrides of the bundle, e.g. --loss a_fl --ratio 9. Members with "
        "results are not trained again, interrupted ones go on. Exit code 1 when a member failed.",
    )
    train.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle, e.g. bundles/cifar10")
    train.add_argument("--members", type=int, default=10, metavar="N", help="number of members (default: %(default)s)")
    train.add_argument("--output", type=Path, default=Path("outputs"), metavar="DIR", help="(default: %(default)s)")
    _add_execution(train)
    train.add_argument("--json", action="store_true", help="print JSON")
    train.set_defaults(action=_train_ensemble, overrides=[])
    evaluate = group.add_parser(
        "evaluate",
        help="combine the finished members of an ensemble",
        description="Combine the finished members in DIR, compare them with the baseline of the same loss, and write "
        "metrics.json, predictions.csv, members.csv and roc.png into DIR.",
    )
    evaluate.add_argument("directory", type=Path, metavar="DIR", help="e.g. outputs/cifar10-0-1/1-9/bce-alm")
    evaluate.add_argument("--baseline", type=Path, metavar="DIR", help="ensemble to compare with")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(action=_evaluate_ensemble)


def _add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, metavar="N", help="members at the same time (default: one per core)")
    parser.add_argument(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or a Ray cluster (default: %(default)s)",
    )


def _train_ensemble(options: argparse.Namespace) -> int:
    from prostate_alm.training.ensemble_training import read_overrides, train_ensemble

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
        print(json.dumps({"folder": str(report.folder), "failures": failures, "metrics": report.metrics}, indent=1))
    elif report.metrics:
        _print_ensemble(report.folder, report.metrics)
    for member, reason in sorted(report.failures.items()):
        _print_error(f"member {member} failed: {reason}")
    return SOME_FAILED if report.failures else OK


def _evaluate_ensemble(options: argparse.Namespace) -> int:
    from prostate_alm.training.ensemble import evaluate_ensemble
    from prostate_alm.training.ensemble_training import baseline_of

    metrics = evaluate_ensemble(options.directory, baseline=options.baseline or baseline_of(options.directory))
    if options.json:
        print(json.dumps(metrics, indent=1))
    else:
        _print_ensemble(options.directory, metrics)
    return OK


def _print_ensemble(folder: Path, metrics: dict[str, Any]) -> None:
    from prostate_alm.training.ensemble import to_text

    print(to_text(metrics))
    print(f"results: {folder}")


def _add_track(commands: _Commands) -> None:
    group = _group(commands, "track", "results in MLflow")
    sync = group.add_parser(
        "sync",
        help="log results that MLflow does not hold yet",
        description="Log each finished member and ensemble in and below DIR that the store does not hold completely, "
        "for example after a training whose MLflow server was down. Doing it again logs nothing.",
    )
    sync.add_argument("directory", type=Path, nargs="?", default=Path("outputs"), metavar="DIR")
    sync.add_argument("--tracking_uri", metavar="URI", help="(default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)")
    sync.set_defaults(action=_sync_tracking)


def _sync_tracking(options: argparse.Namespace) -> int:
    from prostate_alm.training import tracking

    uri = tracking.resolve_uri(options.tracking_uri)
    print(
        tracking.sync_results(options.directory, tracking_uri=uri, progress=progress_bar("logging results")).to_text()
    )
    return OK


if __name__ == "__main__":
    sys.exit(main())
