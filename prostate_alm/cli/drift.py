"""The command that tells whether the studies that are answered move away from those of the validation."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prostate_alm.cli.parser import OK, SOME_REFUSED, Commands, add_model, say

if TYPE_CHECKING:
    from prostate_alm.delivery.drift import PeriodDrift


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
