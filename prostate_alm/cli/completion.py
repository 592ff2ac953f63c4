"""The command that prints what a shell needs to complete the others: words of their own parser, and files."""

import argparse
from collections.abc import Callable, Iterator

from prostate_alm.cli.parser import OK, Commands, Parser, say

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
