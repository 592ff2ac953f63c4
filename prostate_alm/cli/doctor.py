"""The commands about an installation: what it has and lacks, where its bundles are, what a shell needs to know."""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prostate_alm.cli.parser import OK, SOME_FAILED, Commands, Parser, add_group, say
from prostate_alm.cli.watch import PASSWORD_VARIABLE, USER_VARIABLE
from prostate_alm.extras import missing_of

if TYPE_CHECKING:
    from prostate_alm.doctor.findings import Check, Finding

_DEADLINE_S = 4.0  # with start and end below five seconds
_TORCH_S = 3.7


def add_doctor(commands: Commands) -> None:
    """Add `prostate-alm doctor`."""
    doctor = commands.add_parser(
        "doctor",
        help="say what this installation has and lacks, and what to do",
        description="Check Python, packages, torch, GPU, bfloat16, disk, MLflow, Orthanc, programs and bundles, in "
        "five seconds at most. Exit code 1 when there is a problem: something needed, or asked for by name, does not "
        "work. Notes are worth knowing and change no exit code.",
        examples="doctor\ndoctor --orthanc http://127.0.0.1:8042 --output results",
    )
    doctor.add_argument(
        "--orthanc", metavar="URL", help="of a server that must be there (default: look on this machine)"
    )
    doctor.add_argument("--output", type=Path, default=Path("outputs"), metavar="DIR", help="(default: %(default)s)")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument(
        "--sbom", action="store_true", help="print what is installed with its licences, as CycloneDX JSON, and end"
    )
    doctor.set_defaults(action=_examine)


def add_bundle(commands: Commands) -> None:
    """Add the commands of `prostate-alm bundle`."""
    path = add_group(commands, "bundle", "the MONAI bundles that come with the package").add_parser(
        "path",
        help="print the folder of a bundle",
        description="Print the folder of a shipped bundle, as in: python -m monai.bundle run training "
        '--config_file "$(prostate-alm bundle path prostate)/train.json"',
        examples="bundle path prostate",
    )
    path.add_argument("name", metavar="NAME", help="prostate, lesions, gland or cifar10")
    path.set_defaults(action=_print_path)


def _print_path(options: argparse.Namespace) -> int:
    from prostate_alm.shipped import shipped_bundle

    say(shipped_bundle(options.name))
    return OK


def _examine(options: argparse.Namespace) -> int:
    if options.sbom:
        from prostate_alm.doctor.installation import bill_of_materials

        say(json.dumps(bill_of_materials(), indent=1))
        return OK
    from prostate_alm.doctor.findings import run_checks

    findings = run_checks(_checks(options), deadline_s=_DEADLINE_S)
    counts = {level: sum(one.level == level for one in findings) for level in ("problem", "note")}
    if options.json:
        summary = {"problems": counts["problem"], "notes": counts["note"]}
        say(json.dumps({**summary, "findings": [asdict(one) for one in findings]}, indent=1))
    else:
        say("\n".join(_lines(findings)))
        say(f"{_counted(counts['problem'], 'problem')}, {_counted(counts['note'], 'note')}")
    return SOME_FAILED if counts["problem"] else OK


def _checks(options: argparse.Namespace) -> "dict[str, Check]":
    from prostate_alm.doctor import hardware, installation

    if options.orthanc is not None:
        from prostate_alm.delivery.orthanc.client import checked_url

        checked_url(options.orthanc)  # a misspelt one is an error of the command line
    return {
        "torch": partial(hardware.check_hardware, timeout_s=_TORCH_S),
        "python": installation.check_python,
        "packages": installation.check_packages,
        "extras": installation.check_extras,
        "bundles": installation.check_bundles,
        "disk": partial(installation.check_places, options.output),
        "tracking": _tracking,
        "orthanc": partial(_orthanc, options.orthanc),
        "programs": installation.check_tools,
    }


# no server is looked for before the extra is there that speaks with it; what these import takes longer than the other
# checks, and torch, the slowest, should be on its way by then
def _tracking() -> Sequence["Finding"]:
    if missing_of("train"):
        return []
    from prostate_alm.doctor.services import check_tracking
    from prostate_alm.results.tracking_uri import resolve_uri

    return check_tracking(resolve_uri(None))


def _orthanc(url: str | None) -> Sequence["Finding"]:
    if missing_of("serve"):
        return []
    from prostate_alm.doctor.services import DEFAULT_ORTHANC, Node, check_orthanc

    user, password = os.environ.get(USER_VARIABLE), os.environ.get(PASSWORD_VARIABLE)
    login = (user, password) if user is not None and password is not None else None
    return check_orthanc(Node(url or DEFAULT_ORTHANC, is_named=url is not None, login=login))


def _lines(findings: "list[Finding]") -> list[str]:
    """Return a line for each finding, and one for what to do."""
    width = max(len(one.check) for one in findings) + 2
    lines = []
    for one in findings:
        lines.append(f"{one.level:9}{one.check:{width}}{one.found}")
        if one.advice:
            lines.append(f"{'':9}{'':{width}}{one.advice}")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


_BASH = """_prostate_alm() {{
  local place="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$place $word" in {places}) place="$place $word" ;; esac
  done
  case "$place" in
{cases}
  esac
}}
complete -o bashdefault -o default -F _prostate_alm prostate-alm"""

_CASE = """    "{place}") COMPREPLY=($(compgen -W "{words}" -- "${{COMP_WORDS[COMP_CWORD]}}")) ;;"""
_FISH = """function __prostate_alm_place
  set -l words (commandline --tokenize --cut-at-cursor --current-process)
  string match --quiet --regex "^$argv[1]\\$" -- (string join " " "" (string match --invert -- "-*" $words[2..]))
end"""
_FISH_CASE = """complete -c prostate-alm -n '__prostate_alm_place "{place}"' -a '{words}'"""


def add_completion(commands: Commands, whole: Callable[[], Parser]) -> None:
    """Add `prostate-alm completion`.

    Args:
        commands: where it is added.
        whole: returns the parser of all commands.
    """
    completion = commands.add_parser(
        "completion",
        help="print what a shell needs to complete commands and options",
        description="Print a script for bash, zsh or fish that completes commands, options and files.",
        examples="completion bash > ~/.local/share/bash-completion/completions/prostate-alm\n"
        "completion zsh >> ~/.zshrc\ncompletion fish > ~/.config/fish/completions/prostate-alm.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="of which the script is")
    completion.set_defaults(action=lambda options: _print_script(options.shell, whole()))


def _print_script(shell: str, parser: Parser) -> int:
    found = dict(_words(parser, ""))
    if shell == "fish":
        groups = {place.rpartition(" ")[0] for place in found}  # behind a command anything may stand, a study, say
        ends = {place: "" if place in groups else "( .*)?" for place in found}
        cases = [_FISH_CASE.format(place=place + ends[place], words=" ".join(found[place])) for place in found]
        say("\n".join([_FISH, *cases]))
        return OK
    if shell == "zsh":
        say("autoload -Uz compinit bashcompinit && compinit && bashcompinit")
    branches = "\n".join(_CASE.format(place=place, words=" ".join(words)) for place, words in found.items())
    say(_BASH.format(places="|".join(f'"{place}"' for place in found if place), cases=branches))
    return OK


def _words(parser: Parser, place: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each command, ' manifest build', and what may follow there."""
    below: dict[str, Parser] = {}
    words = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = action.choices
        words += [*action.option_strings, *map(str, action.choices or ())]
    yield place, words
    for name, one in below.items():
        yield from _words(one, f"{place} {name}")
