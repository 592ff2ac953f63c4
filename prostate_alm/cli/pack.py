"""The command that packs a trained ensemble."""

import argparse
import json
import sys
from pathlib import Path

from prostate_alm.cli.parser import OK, Commands, say
from prostate_alm.progress import progress_bar
from prostate_alm.shipped import find_bundle


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
    from prostate_alm.delivery.package.build import pack_ensemble
    from prostate_alm.delivery.quality import few_positives
    from prostate_alm.whole_files import sha256_of_file

    chosen = {} if options.target_tpr is None else {"target_tprs": options.target_tpr}
    card = pack_ensemble(
        options.ensemble,
        options.output,
        name=options.name,
        version=options.version,
        manifest=options.manifest,
        bundle=options.bundle,
        licence=options.licence,
        key=options.sign,
        gland=None if options.gland is None else GlandFirst(options.gland, options.without_gland),
        overwrite=options.overwrite,
        progress=progress_bar("reading training studies", unit="study"),
        **chosen,
    )
    sha256 = sha256_of_file(options.output)
    points = [point.model_dump() for point in card.operating_points]
    warnings = [few_positives(point) for point in card.operating_points if point.threshold_guaranteed is None]
    of_lesions = (
        [] if card.lesions is None else [applied_lesion_point(card.lesions, one) for one in card.lesions.points]
    )
    warnings += [warning for point in of_lesions for warning in few_lesions(point)]
    if options.json:
        summary = {
            "warnings": warnings,
            "output": str(options.output),
            "sha256": sha256,
            "name": card.name,
            "version": card.version,
        }
        lesions = {"lesion_points": [point.model_dump() for point in of_lesions]} if of_lesions else {}
        say(json.dumps({**summary, "members": card.members, "operating_points": points, **lesions}, indent=1))
        return OK
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
    say(f"{card.members} members: {options.output}\nSHA-256 {sha256}")
    return OK
