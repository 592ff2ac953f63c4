"""What the rooms need beyond the method: extras of the package, told by the names that are imported."""

from importlib.util import find_spec

MODULES: dict[str, tuple[str, ...]] = {
    "dicom": ("SimpleITK", "gdcm", "highdicom", "nibabel", "pydantic", "pydicom", "sklearn", "tqdm"),
    "serve": ("cryptography", "fire", "ignite", "jinja2", "matplotlib", "monai", "pyarrow", "requests"),
    "train": ("fire", "ignite", "matplotlib", "mlflow", "monai", "requests", "sqlalchemy"),
}
"""What each extra brings; serve and train bring what dicom does, too."""


class MissingExtraError(ImportError):
    """A room was entered that needs an extra which is not installed."""


def missing_of(extra: str) -> list[str]:
    """Return the modules of an extra, a key of `MODULES`, that are not installed.

    >>> missing_of("dicom")
    []
    """
    return [name for name in MODULES[extra] if find_spec(name) is None]


def require(room: str, *extras: str) -> None:
    """Refuse a room unless one of the extras that it works with is installed.

    Args:
        room: name of the room's package.
        extras: keys of `MODULES`, the one to install first.

    Raises:
        MissingExtraError: with the line that says what to install.

    >>> require("prostate_alm.data", "dicom")
    """
    if all(missing_of(extra) for extra in extras):
        missing = ", ".join(missing_of(extras[0]))
        raise MissingExtraError(
            f"{room} must have the packages of the extra {extras[0]}, got none of these: {missing}. "
            f"Install them: pip install 'prostate-alm[{extras[0]}]'"
        )
