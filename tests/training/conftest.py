"""Members on disk, as training leaves them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prostate_alm.training import results

MemberWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def write_member() -> MemberWriter:
    """Return a function that writes a finished member whose logits are random, larger for positives."""

    def write(
        folder: Path, number: int, *, separation: float = 0.5, positives: int = 20, extra: int = 20, **settings: Any
    ) -> Path:
        random = np.random.default_rng([number, *map(ord, folder.name)])
        path = folder / f"member-{number:02d}"
        path.mkdir(parents=True)
        config = {
            "bundle": "cifar10",
            "experiment": "cifar10-0-1",
            "settings": {"member": number, "loss": "bce", "alm": folder.name.endswith("alm"), "seed": 0} | settings,
            "versions": {"torch": "2"},
        }
        (path / "config.json").write_text(json.dumps(config))
        sizes = {"validation": (10, 30), "test": (positives, 60), "test_extra": (extra, 0)}
        metrics = {}
        with (path / "predictions.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("sample_id", "split", "label", "logit"))
            for split, counts in sizes.items():
                labels = np.repeat([1, 0], counts)
                logits = random.normal(size=len(labels)) + separation * labels
                for i, (label, logit) in enumerate(zip(labels, logits, strict=True)):
                    writer.writerow((f"{split}-{i}", split, label, repr(float(logit))))
                if counts[1]:
                    metrics[split] = results.summarise(labels, logits)
        (path / "history.csv").write_text("step,val_auc\n1.0,0.5\n2.0,0.75\n")
        (path / "metrics.json").write_text(json.dumps(metrics))
        return path

    return write
