"""The shipped bill of materials is that of the pins, and complete; what needs what is as pip shows it."""

import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prostate_alm.doctor.installation import EXTRAS, PACKAGE, bill_of_materials

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_shipped_bill_names_what_the_pins_install() -> None:
    shipped = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    versions = {one["name"]: one["version"] for one in shipped["components"]}
    pinned = pins() | {"setuptools": versions["setuptools"]}  # comes with Python
    assert {name: pinned.get(name) for name in versions} == versions, "make sbom"
    declared = [Requirement(line) for line in requires(PACKAGE) or []]
    extras = ("", *EXTRAS)
    shipped_ones = [one for one in declared if not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras)]
    names = {canonicalize_name(one.name) for one in shipped_ones} - {PACKAGE}
    assert names <= versions.keys(), "make sbom"
    assert names >= {"torch", "monai", "mlflow", "pydicom", "onnxruntime", "ray"}
    assert all(one["licenses"] for one in shipped["components"])


def test_packages_come_from_one_index_at_a_time() -> None:
    for name in ("Makefile", "constraints.txt", "docker/Dockerfile", "docker/compose.yaml"):
        assert "extra-index" not in (ROOT / name).read_text(encoding="utf-8"), name


def test_the_bill_of_this_installation_is_consistent_by_itself_and_with_pip() -> None:
    bill = bill_of_materials()
    assert bill == bill_of_materials()
    known = {one["bom-ref"] for one in [*bill["components"], bill["metadata"]["component"]]}
    assert {one["ref"] for one in bill["dependencies"]} == known
    assert all(set(one["dependsOn"]) <= known for one in bill["dependencies"])
    done = subprocess.run([sys.executable, "-m", "pip", "show", "pydantic"], capture_output=True, text=True, check=True)
    shown = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    by_name = {one["name"]: one["purl"] for one in bill["components"]}
    (row,) = (one for one in bill["dependencies"] if one["ref"] == by_name["pydantic"])
    assert row["dependsOn"] == sorted(by_name[canonicalize_name(name)] for name in shown["Requires"].split(", "))
