"""Cohorts whose volumes are noise: quickly made, and nothing that a network could know."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from prostate_alm.data.manifest import Manifest, write_manifest
from prostate_alm.whole_files import sha256_of_file

B_VALUES = (100.0, 600.0, 1000.0)


def write_noise(path: Path, *, seed: int, studies: int, test_every: int) -> Path:
    """Write a cohort of noise; each third study is positive, each `test_every`-th one a test study."""
    random, records = np.random.default_rng(seed), []
    (path.parent / path.stem).mkdir()
    for number in range(studies):
        record: dict[str, Any] = {"id": f"S{number}", "patient": f"P{number}", "label": int(number % 3 == 0)}
        for kind, shape in (("t2", (40, 40, 16)), ("dwi", (40, 40, 16, 3))):
            file = path.parent / path.stem / f"{number}-{kind}.nii.gz"
            voxels = random.gamma(4.0, 100.0, shape).astype(np.float32)
            nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 3.0, 1.0])), file)
            record[kind] = {"path": f"{path.stem}/{file.name}", "sha256": sha256_of_file(file)}
        record["split"] = "test" if number % test_every == 0 else "train"
        record |= {"b_values_acquired_s_per_mm2": [50, 800], "b_values_computed": [number % 2 == 0] * 3}
        records.append(record)
    provenance = {"created_by": "test", "labels_sha256": "0" * 64}
    content = {"name": path.stem, "b_values_s_per_mm2": B_VALUES, "provenance": provenance, "studies": records}
    write_manifest(Manifest.model_validate_json(json.dumps(content)), path)
    return path
