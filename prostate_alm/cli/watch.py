"""The command that answers the studies of a PACS."""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prostate_alm.cli.parser import OK, SOME_REFUSED, Commands, add_model, add_rules, say

if TYPE_CHECKING:
    from prostate_alm.delivery.orthanc.answer import Extra
    from prostate_alm.delivery.orthanc.client import OrthancNode
    from prostate_alm.delivery.orthanc.watch import WatchedStudy, Watcher

USER_VARIABLE, PASSWORD_VARIABLE = "PROSTATE_ALM_USER", "PROSTATE_ALM_PASSWORD"

_PATIENCE_S = 120.0  # of --once; without it the watcher waits for ever

logger = logging.getLogger(__name__)


def add_watch(commands: Commands) -> None:
    """Add `prostate-alm watch`."""
    watch = commands.add_parser(
        "watch",
        help="answer each study that reaches an Orthanc server",
        description="Answer each study of an Orthanc server that is complete and not yet answered, and store report "
        "and page in the study. Ends with Ctrl-C or SIGTERM (exit code 0). With --once: 0 when every study was "
        "answered, 1 when some were set aside, failed or are unfinished. docs/pacs.md tells how to set it up.",
        examples="watch http://127.0.0.1:8042 --model prostate.zip --user watcher --password-file password\n"
        "watch http://127.0.0.1:8042 --model prostate.zip --once",
    )
    watch.add_argument("url", metavar="URL", help="of the server's REST interface, e.g. http://127.0.0.1:8042")
    add_model(watch)
    watch.add_argument("--once", action="store_true", help="answer what is in the server now, and end")
    watch.add_argument("--target-tpr", type=float, metavar="TPR", help="operating point (default: that of the model)")
    add_rules(watch)
    watch.add_argument("--interval", type=float, metavar="S", help="seconds between two looks (default: 5)")
    watch.add_argument(
        "--quiet",
        type=float,
        metavar="S",
        help="a study is complete when nothing reached it for S seconds (default: 30)",
    )
    watch.add_argument("--language", default="en", metavar="LANG", help="of the page: en, de, fr, or a site's own file")
    watch.add_argument(
        "--report-refusals", action="store_true", help="store a report with code and reason in a refused study, too"
    )
    watch.add_argument("--saliency", action="store_true", help="store the map of what the model looked at, too")
    watch.add_argument("--redo", action="append", default=[], metavar="STUDY", help="Orthanc's identifier of a study")
    watch.add_argument("--user", metavar="NAME", help=f"of the server (default: ${USER_VARIABLE})")
    watch.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"its first line is the password (default: ${PASSWORD_VARIABLE})",
    )
    watch.add_argument("--ca-file", type=Path, metavar="PEM", help="authority that signed the server's certificate")
    watch.add_argument("--heartbeat", type=Path, metavar="FILE", help="touched while the watcher lives")
    watch.add_argument("--json", action="store_true", help="print one JSON object a line")
    watch.set_defaults(action=_watch)


def _watch(options: argparse.Namespace) -> int:
    from prostate_alm.delivery.orthanc.watch import Pace, Watcher
    from prostate_alm.delivery.report.words import read_words

    chosen = {"interval_s": options.interval, "quiet_s": options.quiet}
    pace = Pace(**{name: value for name, value in chosen.items() if value is not None})
    words = read_words(options.language)
    node = _node(options)  # before the model: it is the faster one to be wrong
    from prostate_alm.delivery.orthanc.answer import responder
    from prostate_alm.delivery.package.opened import open_package
    from prostate_alm.delivery.package.trust import chosen_trust
    from prostate_alm.delivery.prediction import NOTICE
    from prostate_alm.imaging.rulebook import chosen_rules

    model = open_package(options.model, trust=chosen_trust(options.trust))
    watcher = Watcher(
        node,
        responder(
            model,
            target_tpr=options.target_tpr,
            rules=chosen_rules(options.rules),
            words=words,
            extras=_extras(options),
        ),
        model_sha256=model.identity.sha256,
        pace=pace,
        pulse=lambda: _beat(options.heartbeat),
    )
    say(f"{node.url}: answered by {model.identity.name} {model.identity.version}. {NOTICE}", file=sys.stderr)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for study in options.redo:
            watcher.redo(study)
        return _run(watcher, options)
    finally:
        signal.signal(signal.SIGTERM, before)


def _extras(options: argparse.Namespace) -> "list[Extra]":
    asked: dict[Extra, bool] = {"refusals": options.report_refusals, "saliency": options.saliency}
    return [extra for extra, is_asked in asked.items() if is_asked]


def _beat(heartbeat: Path | None) -> None:
    """Touch the file that shows life; where that is impossible it grows old, which is what a health check sees."""
    if heartbeat is not None:
        with contextlib.suppress(OSError):
            heartbeat.touch()


def _run(watcher: "Watcher", options: argparse.Namespace) -> int:
    """Watch, and print what becomes of each study."""
    if options.once:
        try:
            results = [_shown(outcome, as_json=options.json) for outcome in watcher.once()]
        finally:  # also where the server stays away, or Ctrl-C
            left = [_shown(outcome, as_json=options.json) for outcome in watcher.unfinished()]
        return OK if all(results) and not left else SOME_REFUSED
    with contextlib.suppress(KeyboardInterrupt):  # how a watcher ends
        for outcome in watcher.follow():
            _shown(outcome, as_json=options.json)
    return OK


def _node(options: argparse.Namespace) -> "OrthancNode":
    """Return the client of the server; secrets come from a file or the environment."""
    from prostate_alm.delivery.orthanc.client import Backoff, OrthancNode

    user = options.user or os.environ.get(USER_VARIABLE)
    password = os.environ.get(PASSWORD_VARIABLE)
    if options.password_file is not None:
        password = options.password_file.read_text().split("\n", 1)[0].rstrip("\r")
    if (user is None) != (password is None):
        raise ValueError(
            f"user and password must come together, got only one. Give --user and --password-file, or {USER_VARIABLE} "
            f"and {PASSWORD_VARIABLE} in the environment."
        )
    patience_s = _PATIENCE_S if options.once else None
    node = OrthancNode(options.url, user, password, options.ca_file, Backoff(patience_s=patience_s))
    if node.sends_plain_password:
        logger.warning("the password goes to %s without encryption: use https", node.url)
    return node


def _shown(outcome: "WatchedStudy", *, as_json: bool) -> bool:
    """Print what became of a study, and return whether it was answered."""
    if as_json:
        say(json.dumps(asdict(outcome)), flush=True)
    else:
        reason = f": {outcome.reason}" if outcome.reason else f" in {outcome.wall_s:.1f} s"
        say(f"{outcome.study} {outcome.state} ({outcome.code}){reason}", flush=True)
    return outcome.state == "done"
