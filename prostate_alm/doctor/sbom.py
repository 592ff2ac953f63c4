"""What is installed with the package, as a bill of materials (CycloneDX 1.6): versions, licences, who needs whom."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prostate_alm.doctor.installation import EXTRAS, PACKAGE

_LICENCE_LENGTH = 80  # some packages put a whole licence where its name belongs


def bill_of_materials() -> dict[str, Any]:
    """Return the package and all that it needs here, of what is installed; the same installation gives the same bill.

    What its extras bring counts where it is there, but for tools of development and documentation.

    >>> bill_of_materials()["bomFormat"]
    'CycloneDX'
    """
    needs = _closure(PACKAGE, frozenset({"all", *EXTRAS}))
    found = {name: distribution(name) for name in needs}
    components = [_component(found[name]) for name in sorted(needs) if name != PACKAGE]
    references = {name: _purl(one) for name, one in found.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(found[PACKAGE]) | {"type": "application"}},
        "components": components,
        "dependencies": [
            {"ref": references[name], "dependsOn": sorted(references[one] for one in needs[name])}
            for name in sorted(needs)
        ],
    }


def _closure(package: str, wanted: frozenset[str]) -> dict[str, set[str]]:
    """Return each package that is needed and installed, with those that it needs itself."""
    needs: dict[str, set[str]] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(package, wanted)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        own = needs.setdefault(name, set())
        for one in _requirements(distribution(name), extras):
            needed = canonicalize_name(one.name)
            if _is_installed(needed):
                own |= {needed} - {name}  # an extra of ours may name another
                waiting.append((needed, frozenset(one.extras)))
    return needs


def _requirements(found: Distribution, extras: frozenset[str]) -> list[Requirement]:
    """Return what a package declares to need here, with some of its extras."""
    declared = [Requirement(text) for text in found.requires or ()]
    return [one for one in declared if one.marker is None or any(_holds(one, extra) for extra in ("", *extras))]


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _component(found: Distribution) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _purl(found),
        "name": canonicalize_name(found.metadata["Name"]),
        "version": _version(found),
        "licenses": [_licence(found)],
        "purl": _purl(found),
    }


def _version(found: Distribution) -> str:
    return found.version.partition("+")[0]  # no label of a local build


def _purl(found: Distribution) -> str:
    return f"pkg:pypi/{canonicalize_name(found.metadata['Name'])}@{_version(found)}"


def _licence(found: Distribution) -> dict[str, Any]:
    """Return the licence as the package declares it: an SPDX expression, else a name."""
    said = found.metadata
    if "License-Expression" in said:
        return {"expression": said["License-Expression"]}
    given = said["License"].strip() if "License" in said else ""
    classified = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier") or () if "License ::" in one]
    is_name = given and "\n" not in given and len(given) <= _LICENCE_LENGTH
    return {"license": {"name": given if is_name else ", ".join(classified) or "not declared"}}
