"""From a collection as an adapter describes it to a manifest with converted volumes."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prostate_alm.data.build import BuildResult, CohortPlan, convert_cohort
from prostate_alm.data.cohorts.collection import Case, Collection, screened
from prostate_alm.data.manifest import ManifestError, RefusedStudy
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import sha256_of_file


def import_collection(
    collection: Collection, plan: CohortPlan, *, workers: int = 1, progress: Progress = silent
) -> BuildResult:
    """Convert the studies of a collection and write its manifest; the good ones are kept, the rest is listed.

    Args:
        collection: what an adapter found.
        plan: the manifest to write; its empty words are filled with those of the collection.
        workers: largest number of processes, >= 1.
        progress: called with (studies done, studies in all) after each study.

    Returns:
        The manifest, whose `refused` names every row and study that was left out, and why.

    Raises:
        ManifestError, SplitError, OSError: see `build.convert_cohort`.
    """
    plan.check(workers=workers)
    if plan.volumes_dir.resolve() == collection.folder.resolve():
        raise ManifestError(
            f"volumes must not go among the files of the collection, got {plan.volumes_dir}, which is for those. "
            "Choose another output."
        )
    cases, refused = good_cases(collection)
    if not cases:
        first = f" First reason: {refused[0].reason}" if refused else ""
        raise ManifestError(
            f"a collection must hold a usable study, got none among {len(refused)} with a label. "
            f"Check SOURCE and its labels.{first}"
        )
    manifest = convert_cohort(
        [(case.label, case.source) for case in cases],
        replace(
            plan,
            source=plan.source or collection.source,
            label_definition=plan.label_definition or collection.label_definition,
            licence=plan.licence or collection.licence,
        ),
        labels_sha256=_tables_sha256(collection.tables),
        refused=refused,
        workers=workers,
        progress=progress,
    )
    return BuildResult(manifest, collection.unlabelled)


def good_cases(collection: Collection) -> tuple[list[Case], list[RefusedStudy]]:
    """Return the cases that nothing speaks against, by id, and one refusal for each other id."""
    bad = {one.id: one for one in collection.refused}
    cases, contradictory = screened(collection.cases)
    bad = {one.id: one for one in contradictory} | bad
    return [case for case in cases if case.label.id not in bad], [bad[name] for name in sorted(bad)]


def _tables_sha256(tables: Sequence[Path]) -> str:
    """Return the checksum of a table, or of the checksums of several in their order."""
    digests = [sha256_of_file(path) for path in tables]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
