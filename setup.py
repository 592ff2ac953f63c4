"""Where the shipped data lie: at the top of a checkout, inside the package once it is installed. See pyproject.toml."""

from setuptools import find_packages, setup

SHIPPED = ("bundles", "data_manifest")

setup(
    packages=[*find_packages(include=["prostate_alm*"]), *(f"prostate_alm.{name}" for name in SHIPPED)],
    package_dir={f"prostate_alm.{name}": name for name in SHIPPED},
)
