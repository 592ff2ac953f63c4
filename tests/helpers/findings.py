"""What tests of the doctor share."""

from prostate_alm.doctor.findings import Finding


def the_one(found: list[Finding]) -> Finding:
    """Return the finding of a check that makes a single one."""
    (finding,) = found
    return finding
