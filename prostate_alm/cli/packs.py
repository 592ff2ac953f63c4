"""The commands about packed models: pack one, judge it on other sites, see whether what it answers moves."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prostate_alm.cli.parser import OK, SOME_REFUSED, Commands, add_model, add_trust, say
from prostate_alm.progress import progress_bar
from prostate_alm.shipped import find_bundle
from prostate_alm.whole_files import sha256_of_file

if TYPE_CHECKING:
    from prostate_alm.delivery.card import ModelCard
    from prostate_alm.delivery.drift import PeriodDrift
    from prostate_alm.delivery.prediction import AppliedLesionPoint


def add_pack(commands: Commands) -> None:
    """Add `prostate-alm pack`."""
    pack = commands.add_parser(
        "pack",
        help="pack a trained ensemble into one file for predictions",
        description="Write a trained and evaluated ensemble of the prostate or the lesions bundle as one zip: weights, "
        "operating points chosen on validation studies, calibration, model card. The same ensemble gives the same "
        "bytes.",
        examples="pack outputs/prostate/mine/bce-alm --output prostate.zip --target-tpr 0.95 0.9",
    )
    pack.add_argument("ensemble", type=Path, metavar="ENSEMBLE_DIR", help="e.g. outputs/prostate/NAME/bce-alm")
    pack.add_argument("--output", type=Path, required=True, metavar="ZIP", help="e.g. prostate.zip")
    pack.add_argument(
        "--target-tpr",
        type=float,
        nargs="+",
        metavar="TPR",
        help="targets of the operating points, the first is the default (default: 0.95 0.9 0.975 1)",
    )
    pack.add_argument("--name", metavar="NAME", help="name of the model (default: that of the output)")
    pack.add_argument("--version", default="1", metavar="TEXT", help="version of the model (default: %(default)s)")
    pack.add_argument(
        "--manifest",
        type=Path,
        metavar="JSON",
        help="the cohort (default: the one of data or data_manifest that the members recorded)",
    )
    pack.add_argument("--bundle", type=find_bundle, metavar="BUNDLE", help="(default: the ensemble's, as shipped)")
    pack.spelt("--licence", "--license", type=Path, metavar="FILE", help="licence of the weights (default: Apache-2.0)")
    pack.add_argument(
        "--gland", type=Path, metavar="DIR", help="the localiser of members that were trained with --crop gland"
    )
    pack.add_argument(
        "--without-gland",
        choices=("centre", "refuse"),
        default="centre",
        help="what a study gets whose gland is not found, found twice or cut: a crop around the middle of T2 with a "
        "warning, or a refusal (default: %(default)s)",
    )
    pack.add_argument("--sign", type=Path, metavar="KEY", help="Ed25519 private key (PEM) that signs the pack")
    pack.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    pack.add_argument("--json", action="store_true", help="print JSON")
    pack.set_defaults(action=_pack)


def _pack(options: argparse.Namespace) -> int:
    from prostate_alm.delivery.gland import GlandFirst
    from prostate_alm.delivery.lesions import applied_lesion_point, few_lesions
    from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
    from prostate_alm.delivery.package.trained import Origins
    from prostate_alm.delivery.quality import few_positives

    chosen = {} if options.target_tpr is None else {"target_tprs": options.target_tpr}
    gland = None if options.gland is None else GlandFirst(options.gland, options.without_gland)
    card = pack_ensemble(
        options.ensemble,
        options.output,
        origins=Origins(options.bundle, options.manifest, gland),
        label=PackLabel(options.name, options.version, options.licence, options.sign),
        overwrite=options.overwrite,
        progress=progress_bar("reading training studies", unit="study"),
        **chosen,
    )
    warnings = [few_positives(point) for point in card.operating_points if point.threshold_guaranteed is None]
    lesions = card.lesions
    of_lesions = [] if lesions is None else [applied_lesion_point(lesions, one) for one in lesions.points]
    warnings += [warning for point in of_lesions for warning in few_lesions(point)]
    (_say_pack_as_json if options.json else _say_pack)(card, of_lesions, warnings, options.output)
    return OK


def _say_pack_as_json(
    card: "ModelCard", of_lesions: Sequence["AppliedLesionPoint"], warnings: Sequence[str], output: Path
) -> None:
    summary = {
        "warnings": warnings,
        "output": str(output),
        "sha256": sha256_of_file(output),
        "name": card.name,
        "version": card.version,
        "members": card.members,
        "operating_points": [point.model_dump() for point in card.operating_points],
    }
    lesions = {"lesion_points": [point.model_dump() for point in of_lesions]} if of_lesions else {}
    say(json.dumps(summary | lesions, indent=1))


def _say_pack(
    card: "ModelCard", of_lesions: Sequence["AppliedLesionPoint"], warnings: Sequence[str], output: Path
) -> None:
    for point in card.operating_points:
        default = ", the default" if point.target_tpr == card.default_target_tpr else ""
        say(
            f"target TPR {100 * point.target_tpr:g} %: threshold {point.threshold:.3f}, FPR {100 * point.fpr:.1f} % "
            f"[{100 * point.fpr_low:.1f}, {100 * point.fpr_high:.1f}] on {point.positives} positives and "
            f"{point.negatives} negatives{default}"
        )
    for one in of_lesions:
        interval = f"[{100 * one.sensitivity_low:.1f}, {100 * one.sensitivity_high:.1f}]"
        say(
            f"target {100 * one.target_sensitivity:g} % of lesions: candidates from "
            f"{100 * one.threshold_probability:.3g} % on, {100 * one.sensitivity:.1f} % {interval} of "
            f"{one.lesions} lesions found, {one.false_positives_per_case:.2f} false positives a case in {one.cases}"
        )
    for warning in warnings:
        say(f"warning: {warning}", file=sys.stderr)
    say(f"{card.members} members: {output}\nSHA-256 {sha256_of_file(output)}")


def add_sites(commands: Commands) -> None:
    """Add `prostate-alm sites`."""
    sites = commands.add_parser(
        "sites",
        help="judge a packed model on the test studies of other cohorts",
        description="Apply a packed model to the test studies of cohorts and print, beside its own validation, AUC, "
        "rates at the thresholds that it is shipped with, and calibration, each with its 95 % interval. Give the "
        "cohort of the training, too, for its own test studies, and to be told of studies in both. Nothing is "
        "written without --output.",
        examples="sites prostate.zip data_manifest/theirs.json\n"
        "sites prostate.zip data/mine.json data/theirs.json --output sites.csv --json",
    )
    sites.add_argument("model", type=Path, metavar="ZIP", help="packed model, see prostate-alm pack")
    sites.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST", help="cohorts, each by its JSON")
    add_trust(sites)
    sites.add_argument("--output", type=Path, metavar="CSV", help="write logit and probability of each study")
    sites.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    sites.add_argument("--json", action="store_true", help="print JSON")
    sites.set_defaults(action=_sites)


def _sites(options: argparse.Namespace) -> int:
    from prostate_alm.delivery.package.opened import open_package
    from prostate_alm.delivery.package.trust import chosen_trust
    from prostate_alm.delivery.sites import evaluate_sites, to_text, write_predictions

    if options.output is not None and options.output.exists() and not options.overwrite:
        raise ValueError(
            f"output must be a new file, got {options.output}, which exists. Choose another or give --overwrite"
        )
    model = open_package(options.model, trust=chosen_trust(options.trust))
    report, scores = evaluate_sites(model, options.manifests, progress=progress_bar("reading studies", unit="study"))
    if options.output is not None:
        write_predictions(scores, model.card, options.output)
    say(json.dumps(asdict(report), indent=1) if options.json else to_text(report, model.card))
    return OK


def add_drift(commands: Commands) -> None:
    """Add `prostate-alm drift`."""
    drift = commands.add_parser(
        "drift",
        help="tell whether answered studies move away from those of the validation",
        description="Compare the answers of each period with the validation cohort and with all periods before: "
        "scores, voxels, field strength, intensity, b-values, refusals. Exit code 1 when something moved. "
        "docs/drift.md tells what is compared and how often it is a false alarm.",
        examples="drift answers --model prostate.zip --picture drift.png\n"
        "drift answers/2026-01 answers/2026-02 --model prostate.zip --json",
    )
    drift.add_argument(
        "answers",
        type=Path,
        nargs="+",
        metavar="ANSWERS",
        help="folders of answers, one a period in order of time; or one folder, of periods or of answers that are told "
        "apart by the month in which they were written",
    )
    add_model(drift)
    drift.add_argument(
        "--alpha", type=float, default=0.05, metavar="A", help="chance of any false alarm, ever (default: %(default)s)"
    )
    drift.add_argument("--picture", type=Path, metavar="FILE", help="draw it: a .png, .svg or .pdf")
    drift.add_argument("--json", action="store_true", help="print all comparisons as JSON")
    drift.set_defaults(action=_drift)


def _drift(options: argparse.Namespace) -> int:
    from prostate_alm.delivery.drift import drift_of, lines_of, read_periods, write_picture
    from prostate_alm.delivery.package.described import describe_package
    from prostate_alm.delivery.package.trust import chosen_trust

    model = describe_package(options.model, trust=chosen_trust(options.trust))
    found = drift_of(read_periods(options.answers, sha256=model.identity.sha256), model.card, alpha=options.alpha)
    if options.json:
        say(json.dumps([asdict(one) | {"moved": [asdict(moved) for moved in one.moved]} for one in found], indent=1))
    else:
        _print(found)
        for line in lines_of(found):
            say(line)
    if options.picture is not None:
        write_picture(found, model.card, options.picture)
    return SOME_REFUSED if any(one.moved for one in found) else OK


def _print(found: "list[PeriodDrift]") -> None:
    """Print a table of periods: medians, and shares as counts."""
    columns = list(dict.fromkeys(name for one in found for name in (*one.quartiles, *one.shares)))
    rows = [["period", "studies", *columns]]
    for one in found:
        medians = {name: " x ".join(f"{q[1]:.3g}" for q in quartiles) for name, quartiles in one.quartiles.items()}
        shares = {name: f"{count} of {of}" for name, (count, of) in one.shares.items()}
        told = medians | shares
        rows.append([one.name, str(one.studies), *(told.get(name, "") for name in columns)])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
