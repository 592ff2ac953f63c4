"""A synthetic prostate MRI cohort: studies with known truth, written as the DICOM a scanner would have sent.

`make_study` draws one study in memory, `write_study` writes its files, `make_cohort` does both for a whole
cohort. Study i depends on the seed and on i alone, never on how many studies are asked for.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prostate_alm.phantom.dicom import PhantomSeries, PhantomStack, write_files
from prostate_alm.phantom.reader import DEFAULT_DIFFICULTY, observer_auc
from prostate_alm.phantom.study import (
    COMPUTED_B_VALUE_S_PER_MM2,
    IMAGE_DIFFICULTY_MAX,
    DiffusionVolumes,
    PhantomParameters,
    PhantomStudy,
    StoredVolume,
    StudyPlan,
    make_study,
    plan_study,
    render_diffusion,
    render_study,
)
from prostate_alm.whole_files import partial_folder, replacing, write_text_atomically

__all__ = [
    "DEFAULT_DIFFICULTY",
    "IMAGE_DIFFICULTY_MAX",
    "DiffusionVolumes",
    "PhantomParameters",
    "PhantomStudy",
    "StudyPlan",
    "StoredVolume",
    "make_cohort",
    "make_study",
    "observer_auc",
    "plan_study",
    "render_diffusion",
    "render_study",
    "write_study",
]

PHANTOM_VERSION = 1  # raised with every change of the pixels, so that no cohort is a mixture


def write_study(study: PhantomStudy, directory: Path) -> Path:
    """Write a study's DICOM files, one folder a series.

    Args:
        study: the study.
        directory: an absent or empty folder; made where absent.

    Raises:
        ValueError: where the folder already holds something.

    Reference:
        DICOM PS3.3 A.4 (MR Image IOD), PS3.10 section 7.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     len(list(write_study(make_study(1), Path(folder)).glob("*/*.dcm"))) > 100
    True
    """
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"directory must be absent or empty, got {directory} in write_study. Choose another one.")
    plan = study.plan
    write_files(
        study_series(study), directory, identifier=plan.identifier, uid_key=plan.uid_key, protocol=plan.protocol
    )
    return directory


def study_series(study: PhantomStudy) -> list[PhantomSeries]:
    """List the series of a study in the order of their numbers, as they will be written.

    Args:
        study: the study.

    Returns:
        Localizer, sagittal and axial T2, one or several diffusion series, ADC map, computed high-b series.

    >>> [series.role for series in study_series(make_study(1))][:3]
    ['localizer', 't2 sagittal', 't2 axial']
    """
    protocol, b_values = study.plan.protocol, study.plan.b_values_s_per_mm2
    traces = tuple(_stack(volume, b) for volume, b in zip(study.diffusion.traces, b_values, strict=True))
    groups = [traces] if protocol.one_series else [(trace,) for trace in traces]
    adc_b_value = {"none": None, "lowest": b_values[0], "highest": b_values[-1]}[protocol.adc_b_value]
    contents: list[tuple[str, tuple[PhantomStack, ...]]] = [
        ("localizer", tuple(_stack(volume, None) for volume in study.localizer)),
        ("t2 sagittal", (_stack(study.sagittal, None),)),
        ("t2 axial", (_stack(study.t2, None),)),
        *(("diffusion", group) for group in groups),
        ("adc", (_stack(study.diffusion.adc, adc_b_value),)),
        ("computed", (_stack(study.diffusion.computed, COMPUTED_B_VALUE_S_PER_MM2),)),
    ]
    return [
        PhantomSeries(role=role, number=number, stacks=stacks, b_values_s_per_mm2=b_values)
        for number, (role, stacks) in enumerate(contents, start=1)
    ]


def _stack(volume: StoredVolume, b_value_s_per_mm2: float | None) -> PhantomStack:
    return PhantomStack(volume.pixels, volume.grid, b_value_s_per_mm2)


def make_cohort(
    output_dir: Path,
    *,
    studies: int = 60,
    progress: Callable[[int, int], None] | None = None,
    **parameters: Any,
) -> Path:
    """Write a synthetic cohort: one folder of DICOM files a study, `labels.csv` (id, label), `findings.csv`
    (the same with the reader's finding) and `truth.csv`.

    Complete studies that are already there are kept, so an interrupted call goes on where it stopped and a
    larger number of studies extends a cohort.

    Args:
        output_dir: folder of the cohort; made where absent.
        studies: how many, >= 1.
        progress: called with (studies done, studies in all) after each study.
        **parameters: see `PhantomParameters`.

    Returns:
        `output_dir`.

    Raises:
        ValueError: for a parameter out of range, or where the folder holds a cohort of other parameters.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (make_cohort(Path(folder), studies=1) / "labels.csv").read_text().split()
    ['id,label', 'PHANTOM-0001,0']
    """
    if studies < 1:
        raise ValueError(f"studies must be >= 1, got {studies} in make_cohort. The default is 60.")
    settings = PhantomParameters(**parameters).to_dict()
    plans = [plan_study(index, **settings) for index in range(1, studies + 1)]
    _claim(output_dir, settings | {"version": PHANTOM_VERSION})
    for done, plan in enumerate(plans, start=1):
        _write_once(plan, output_dir)
        if progress is not None:
            progress(done, studies)
    _write_tables(output_dir, plans)
    return output_dir


def _claim(output_dir: Path, settings: dict[str, Any]) -> None:
    """Mark the folder with the cohort's parameters, or raise where it belongs to others."""
    marker = output_dir / "cohort.json"
    text = json.dumps(settings, indent=2) + "\n"
    if marker.exists() and marker.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"output_dir must be new or hold a cohort of the same parameters, got {output_dir} in make_cohort. "
            "Its cohort.json differs: choose another folder or repeat its parameters."
        )
    if not marker.exists() and output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(
            f"output_dir must be new, empty or a phantom cohort, got {output_dir} in make_cohort. "
            "It holds other files: choose another folder."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomically(marker, text)


def _write_once(plan: StudyPlan, output_dir: Path) -> None:
    """Write a study under a temporary name and rename it, so that a folder with its own name is always complete."""
    directory = output_dir / plan.identifier
    if directory.exists():
        return
    with partial_folder(directory) as partial:
        write_study(render_study(plan), partial)
        partial.rename(directory)


def _truth(plan: StudyPlan) -> dict[str, object]:
    """One row of truth.csv: what no reader of the images is told."""
    lesion, centre_mm = plan.anatomy.lesion, plan.lesion_centre_mm
    place = ("", "", "") if centre_mm is None else tuple(f"{value:.2f}" for value in centre_mm)
    return {
        "id": plan.identifier,
        "label": plan.label,
        "kind": plan.verdict.kind,
        "conspicuity": f"{plan.verdict.conspicuity:.4f}",
        "perceived": f"{plan.verdict.perceived:.4f}",
        "contrast": "" if lesion is None else f"{lesion.contrast:.4f}",
        "zone": "" if lesion is None else lesion.zone,
        "radius_mm": "" if lesion is None else f"{lesion.radius_mm:.2f}",
        "x_mm": place[0],
        "y_mm": place[1],
        "z_mm": place[2],
        "manufacturer": plan.protocol.manufacturer,
        "b_value_form": plan.protocol.b_value_form,
        "diffusion_series": 1 if plan.protocol.one_series else len(plan.b_values_s_per_mm2),
    }


def _write_tables(output_dir: Path, plans: Sequence[StudyPlan]) -> None:
    labels: list[dict[str, object]] = [{"id": plan.identifier, "label": plan.label} for plan in plans]
    findings = [row | {"finding": plan.verdict.finding} for row, plan in zip(labels, plans, strict=True)]
    _write_table(output_dir / "truth.csv", [_truth(plan) for plan in plans])
    _write_table(output_dir / "findings.csv", findings)
    _write_table(output_dir / "labels.csv", labels)


def _write_table(path: Path, rows: list[dict[str, object]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
