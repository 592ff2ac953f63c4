"""Commands about studies and cohorts."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from prostate_alm.cli.cohorts import (
    add_export,
    add_import,
    add_lesions_beside_label,
    add_plan,
    chosen_plan,
    print_build,
)
from prostate_alm.cli.parser import OK, SOME_FAILED, USAGE_ERROR, Commands, add_group, add_rules, print_error, say
from prostate_alm.progress import progress_bar


def add_phantom(commands: Commands) -> None:
    """Add the commands of `prostate-alm phantom`."""
    group = add_group(commands, "phantom", "synthetic studies")
    make = group.add_parser(
        "make",
        help="write a synthetic cohort as DICOM studies",
        description="Write OUTPUT/PHANTOM-0001/... as DICOM, labels.csv for `manifest build`, and truth.csv. "
        "Studies that are there already are kept.",
        examples="phantom make --output dicom --studies 60\n"
        "phantom make --output dicom --b-values 0 400 1500 --masks masks",
    )
    make.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the cohort")
    make.add_argument("--studies", type=int, default=60, help="number of studies (default: %(default)s)")
    make.add_argument("--seed", type=int, default=0, help="same seed, same studies (default: %(default)s)")
    make.add_argument(
        "--difficulty", type=float, help="0 is easiest; see docs/phantom.md (default: as documented there)"
    )
    make.add_argument(
        "--reader-difficulty", type=float, help="of the reader who gives the labels alone (default: --difficulty)"
    )
    make.add_argument(
        "--lesions",
        choices=["separate", "graded"],
        help="separate: far from what a reader might doubt; graded: of every conspicuity (default: separate)",
    )
    make.add_argument(
        "--b-values",
        type=float,
        nargs="+",
        metavar="B",
        help="acquired b-values in s/mm2 (default: those of the paper, 100 600 1000)",
    )
    make.add_argument(
        "--masks", type=Path, metavar="DIR", help="write DIR/<id>/lesions.nii.gz and gland.nii.gz for `manifest build`"
    )
    make.add_argument("--segmentations", type=Path, metavar="DIR", help="write the same as DICOM SEG, DIR/<id>/seg.dcm")
    make.set_defaults(action=_make_phantom)


def _make_phantom(options: argparse.Namespace) -> int:
    from prostate_alm.data.synthetic import SyntheticCohort, write_masks, write_segmentations
    from prostate_alm.phantom.cohort import make_cohort

    # absent options are not passed on: the defaults are those of make_cohort
    chosen = {
        "difficulty": options.difficulty,
        "reader_difficulty": options.reader_difficulty,
        "lesions": options.lesions,
        "b_values_s_per_mm2": options.b_values and tuple(options.b_values),
    }
    parameters = {name: value for name, value in chosen.items() if value is not None}
    folder = make_cohort(
        options.output,
        studies=options.studies,
        seed=options.seed,
        progress=progress_bar("making studies", unit="study"),
        **parameters,
    )
    cohort, progress = SyntheticCohort(studies=options.studies, seed=options.seed, **parameters), progress_bar
    if options.masks:
        write_masks(options.masks, cohort, progress=progress("making masks", unit="study"))
    if options.segmentations:
        bar = progress("making segmentations", unit="study")
        write_segmentations(options.segmentations, cohort, dicom_dir=folder, progress=bar)
    say(f"{options.studies} studies with labels.csv: {folder}")
    return OK


def add_study(commands: Commands) -> None:
    """Add the commands of `prostate-alm study`."""
    group = add_group(commands, "study", "one DICOM study")
    explain = group.add_parser(
        "explain",
        help="say which series would be used, and why",
        description="Say for each series of a DICOM study what it is taken for, whether it is used, and why. "
        "Exit code 2 when the study cannot be used.",
        examples="study explain STUDY --json",
    )
    explain.add_argument("directory", type=Path, metavar="DIR", help="folder of the study, searched recursively")
    add_rules(explain)
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.set_defaults(action=_explain_study)


def _explain_study(options: argparse.Namespace) -> int:
    from prostate_alm.imaging.rulebook import chosen_rules
    from prostate_alm.imaging.study import explain_study

    selection = explain_study(options.directory, rules=chosen_rules(options.rules))
    say(json.dumps(selection.to_dict(), indent=1) if options.json else selection.to_text())
    if selection.refused is None:
        return OK
    print_error(f"{selection.refused.code}: {selection.refused.reason}")
    return USAGE_ERROR


def add_manifest(commands: Commands) -> None:
    """Add the commands of `prostate-alm manifest`."""
    group = add_group(commands, "manifest", "the list of a cohort's studies")
    build = group.add_parser(
        "build",
        help="convert a cohort's studies and write its manifest",
        description="Convert each labelled study (DICOM_DIR/<id>) once and write the manifest. Studies that cannot be "
        "used are listed with the reason and do not stop the others (exit code 1).",
        examples="manifest build dicom --labels labels.csv --output data_manifest/mine.json --licence CC-BY-4.0",
    )
    build.add_argument("dicom_dir", type=Path, metavar="DICOM_DIR", help="folder with one sub-folder per study")
    build.add_argument("--labels", type=Path, required=True, metavar="CSV", help="columns id, label[, patient, split]")
    build.add_argument("--masks", type=Path, metavar="DIR", help="DIR/<id>/lesions.nii.gz, gland.nii.gz, or DICOM SEG")
    add_lesions_beside_label(build)
    add_plan(build)
    add_rules(build)
    build.set_defaults(action=_build_manifest)
    add_import(group)
    add_export(group)
    check = group.add_parser(
        "check",
        help="check a manifest and the checksums of its volumes",
        description="Check a manifest against its schema, each file against its checksum, and masks against T2 "
        "and label (exit code 2: faults).",
        examples="manifest check data_manifest/mine.json",
    )
    check.add_argument("manifest", type=Path, metavar="JSON")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(action=_check_manifest)
    _add_make(group)


def _add_make(group: Commands) -> None:
    make = group.add_parser(
        "make",
        help="make a synthetic cohort from its recipe",
        description="Make the studies of RECIPE, their volumes and their manifest in FOLDER, and compare the voxels "
        "with the recipe's checksums. What is there already is kept, so an interrupted call goes on where it stopped. "
        "Exit code 1 when voxels differ.",
        examples="manifest make data_manifest/phantom-400.json",
    )
    make.add_argument("recipe", type=Path, metavar="RECIPE", help="e.g. data_manifest/phantom-400.json")
    make.add_argument("--folder", type=Path, default=Path("data"), metavar="DIR", help="(default: %(default)s)")
    make.add_argument("--record", action="store_true", help="write the checksums of what is made into RECIPE")
    make.set_defaults(action=_make_manifest)


def _make_manifest(options: argparse.Namespace) -> int:
    from prostate_alm.data.synthetic import difference_in_words, make_and_check, record_checksums

    if options.record:
        say(record_checksums(options.recipe, options.folder, progress=progress_bar))
        return OK
    made = make_and_check(options.recipe, options.folder, progress=progress_bar)
    say(made.manifest)
    if not made.differing:
        return OK
    print_error(difference_in_words(options.recipe, made.differing))
    return SOME_FAILED


def _build_manifest(options: argparse.Namespace) -> int:
    from prostate_alm.data.build import DicomCohort, build_manifest
    from prostate_alm.imaging.rulebook import chosen_rules
    from prostate_alm.parallel import available_workers

    result = build_manifest(
        DicomCohort(options.dicom_dir, options.labels, masks_dir=options.masks, rules=chosen_rules(options.rules)),
        replace(chosen_plan(options), lesions_make_label=not options.lesions_beside_label),
        workers=available_workers() if options.workers is None else options.workers,
        progress=progress_bar("reading studies", unit="study"),
    )
    return print_build(result, options)


def _check_manifest(options: argparse.Namespace) -> int:
    from prostate_alm.data.manifest import check_files, read_manifest
    from prostate_alm.data.masks import check_masks

    manifest = read_manifest(options.manifest)
    faults = check_files(manifest, options.manifest, progress=progress_bar("checking volumes", unit="study"))
    if not faults and manifest.has_masks:
        faults = check_masks(manifest, options.manifest, progress=progress_bar("checking masks", unit="study"))
    if options.json:
        say(json.dumps({"studies": len(manifest.studies), "faults": faults}, indent=1))
    elif not faults:
        say(f"{len(manifest.studies)} studies, all volumes as the manifest says")
    for fault in faults:
        print_error(fault)
    return USAGE_ERROR if faults else OK
