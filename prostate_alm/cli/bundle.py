"""Commands about the bundles that come with the package."""

import argparse

from prostate_alm.cli.parser import OK, Commands, add_group, say


def add_bundle(commands: Commands) -> None:
    """Add the commands of `prostate-alm bundle`."""
    group = add_group(commands, "bundle", "the MONAI bundles that come with the package")
    path = group.add_parser(
        "path",
        help="print the folder of a bundle",
        description="Print the folder of a shipped bundle, as in: python -m monai.bundle run training "
        '--config_file "$(prostate-alm bundle path prostate)/train.json"',
    )
    path.add_argument("name", metavar="NAME", help="prostate, lesions or cifar10")
    path.set_defaults(action=_print_path)


def _print_path(options: argparse.Namespace) -> int:
    from prostate_alm.shipped import shipped_bundle

    say(shipped_bundle(options.name))
    return OK
