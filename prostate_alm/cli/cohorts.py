"""Commands that take a public collection in and give a cohort out as BIDS."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prostate_alm.cli.parser import OK, SOME_REFUSED, Commands, Parser, add_group, say
from prostate_alm.progress import progress_bar

if TYPE_CHECKING:
    from prostate_alm.data.build import CohortPlan


def add_plan(parser: Parser) -> None:
    """Add the options of every command that writes a manifest."""
    parser.add_argument("--output", type=Path, required=True, metavar="JSON", help="manifest; volumes go beside it")
    parser.add_argument("--test-share", type=float, default=0.25, help="share of test patients (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the test split (default: %(default)s)")
    parser.add_argument("--source", default="", metavar="TEXT", help="where the studies come from")
    parser.add_argument("--label-definition", default="", metavar="TEXT", help="what label 1 means")
    parser.spelt("--licence", "--license", default="", metavar="TEXT", help="licence of the data")
    parser.add_argument("--overwrite", action="store_true", help="replace a manifest that is there")
    parser.add_argument("--workers", type=int, metavar="N", help="largest number of processes (default: one per core)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def chosen_plan(options: argparse.Namespace) -> "CohortPlan":
    """Return what the options of `add_plan` say of the manifest."""
    from prostate_alm.data.build import CohortPlan

    return CohortPlan(
        options.output,
        source=options.source,
        label_definition=options.label_definition,
        licence=options.licence,
        test_share=options.test_share,
        seed=options.seed,
        overwrite=options.overwrite,
    )


def add_lesions_beside_label(parser: Parser) -> None:
    """Add the option of a cohort whose lesions do not make its label."""
    parser.add_argument(
        "--lesions-beside-label",
        action="store_true",
        help="lesions do not make the label: keep maps with lesions where it is 0, and without where it is 1",
    )


def add_import(commands: Commands) -> None:
    """Add the commands of `prostate-alm manifest import`."""
    group = add_group(commands, "import", "convert a public collection as it is published, and write its manifest")
    for name, text, labels in (
        ("prostatex", "PROSTATEx: DICOM folders ProstateX-0001/..., findings of the training part", "findings CSV"),
        ("picai", "PI-CAI: folders of .mha files, marksheet.csv", "marksheet CSV"),
        ("fastmri", "fastMRI prostate: DICOM folders 001/..., PI-RADS scores of slices", "folder of the two CSV"),
        ("prostate158", "Prostate158: train.csv, valid.csv and NIfTI files", ""),
        ("bids", "a BIDS dataset: participants.tsv with a column of labels", ""),
    ):
        parser = group.add_parser(
            name,
            help=text,
            description=f"{text}. Rows and studies that cannot be used are listed with the reason and do not stop the "
            "others (exit code 1). Layouts, labels and licences: data_manifest/README.md",
            examples=f"manifest import {name} {name}-as-published --output data_manifest/{name}.json",
        )
        parser.add_argument("collection", type=Path, metavar="SOURCE", help="folder of the collection")
        if labels:
            parser.add_argument("--labels", type=Path, metavar="PATH", help=f"{labels} (default: looked for in SOURCE)")
        if name == "picai":
            parser.add_argument(
                "--masks", choices=["human", "ai"], help="lesions, ai: also where no human outlined any; and the gland"
            )
        if name == "prostate158":
            parser.add_argument("--masks", action="store_true", help="lesions and gland, too")
        if name == "bids":
            parser.add_argument("--label-column", default="label", metavar="NAME", help="(default: %(default)s)")
            parser.add_argument(
                "--positive", nargs="+", default=[], metavar="VALUE", help="values that mean 1 (default: only 0 and 1)"
            )
        add_plan(parser)
        parser.set_defaults(action=_import_collection, cohort=name)


def add_export(commands: Commands) -> None:
    """Add the command `prostate-alm manifest export`."""
    export = commands.add_parser(
        "export",
        help="write a cohort as a BIDS dataset",
        description="Write the studies of a manifest as a BIDS dataset that `manifest import bids` reads again.",
        examples="manifest export data_manifest/mine.json --bids bids",
    )
    export.add_argument("manifest", type=Path, metavar="JSON")
    export.add_argument("--bids", type=Path, required=True, metavar="DIR", help="the dataset; absent or empty")
    export.add_argument("--json", action="store_true", help="print JSON")
    export.set_defaults(action=_export_bids)


def print_build(result: Any, options: argparse.Namespace, *, unlabelled: str = "folders", **figures: int) -> int:
    """Print what came of a manifest and return the exit code.

    Args:
        result: the `BuildResult`.
        options: of the command; `output` and `json` count.
        unlabelled: what it is that has no label.
        figures: more for JSON.
    """
    manifest = result.manifest
    if options.json:
        summary = {
            "manifest": str(options.output),
            "studies": len(manifest.studies),
            "refused": [study.model_dump() for study in manifest.refused],
            "unlabelled": len(result.unlabelled),
        }
        if manifest.has_masks:
            summary |= _masks_of(manifest)
        say(json.dumps(summary | figures, indent=1))
        return SOME_REFUSED if manifest.refused or manifest.refused_masks else OK
    say(f"{len(manifest.studies)} studies: {options.output}")
    for study in manifest.refused:
        say(f"refused {study.id} ({study.code}): {study.reason}")
    for mask in manifest.refused_masks:
        say(f"refused {mask.mask} of {mask.id} ({mask.code}): {mask.reason}")
    if manifest.has_masks:
        counts = _masks_of(manifest)
        say(f"{counts['lesions']} studies have a map of lesions, {counts['gland']} one of the gland")
    if result.unlabelled:
        say(f"{len(result.unlabelled)} {unlabelled} have no label and were left out")
    return SOME_REFUSED if manifest.refused or manifest.refused_masks else OK


def _masks_of(manifest: Any) -> dict[str, Any]:
    counts = {
        kind: sum(getattr(study, kind) is not None for study in manifest.studies) for kind in ("lesions", "gland")
    }
    return counts | {"refused_masks": [mask.model_dump() for mask in manifest.refused_masks]}


def _import_collection(options: argparse.Namespace) -> int:
    from prostate_alm.data.cohorts.collection import import_collection
    from prostate_alm.parallel import available_workers

    result = import_collection(
        _read(options),
        chosen_plan(options),
        workers=available_workers() if options.workers is None else options.workers,
        progress=progress_bar("reading studies", unit="study"),
    )
    labels = [study.label for study in result.manifest.studies]
    code = print_build(result, options, unlabelled="studies", positives=sum(labels))
    if not options.json:
        say(f"{sum(labels)} of {len(labels)} are positive ({100 * sum(labels) / len(labels):.1f} %)")
    return code


def _read(options: argparse.Namespace) -> Any:
    """Return the `Collection` that a command names."""
    from prostate_alm.data.cohorts import bids, findings, picai, prostate158

    source = options.collection
    match options.cohort:
        case "prostatex":
            return findings.read_prostatex(source, labels=options.labels)
        case "picai":
            return picai.read_picai(source, labels=options.labels, masks=options.masks)
        case "fastmri":
            return findings.read_fastmri(source, labels=options.labels)
        case "prostate158":
            return prostate158.read_prostate158(source, masks=options.masks)
        case _:
            return bids.read_bids(source, label_column=options.label_column, positive=options.positive)


def _export_bids(options: argparse.Namespace) -> int:
    from prostate_alm.data.cohorts.bids import export_bids
    from prostate_alm.data.manifest import read_manifest

    manifest = read_manifest(options.manifest)
    progress = progress_bar("writing studies", unit="study")
    folder = export_bids(manifest, options.manifest, folder=options.bids, progress=progress)
    if options.json:
        say(json.dumps({"bids": str(folder), "studies": len(manifest.studies)}, indent=1))
    else:
        say(f"{len(manifest.studies)} studies: {folder}")
    return OK
