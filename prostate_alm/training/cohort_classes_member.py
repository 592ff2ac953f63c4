"""A member of the prostate bundle that tells several findings of a cohort apart, one or some of them critical."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from prostate_alm.data.manifest import Manifest, Name
from prostate_alm.data.synthetic import DEFAULT_COHORT, SyntheticCohort
from prostate_alm.method.class_losses import CLASS_LOSSES, make_class_loss
from prostate_alm.method.class_metrics import require_critical
from prostate_alm.training.cohort_member import CohortSettings, silence_missing_decoders
from prostate_alm.training.member import Member, open_trained
from prostate_alm.training.settings import Samples


class CohortClassesSettings(CohortSettings):
    """Settings of a member that tells the findings of a cohort apart.

    `findings` are the classes, all that the manifest's studies have, in the order of the network's logits. `critical`
    names one of them or several, the gravest first where `ordered`: those that the manifest labels 1, by which studies
    are divided among training, validation and test as they are for two classes. The synthetic cohort has the three
    findings of its reader.
    """

    losses: ClassVar[Mapping[str, Any]] = CLASS_LOSSES
    synthetic: ClassVar[SyntheticCohort] = DEFAULT_COHORT.model_copy(update={"findings": True})

    findings: tuple[Name, ...] = Field(min_length=2)
    critical: tuple[int, ...]
    ordered: bool

    @field_validator("findings")
    @classmethod
    def _once_each(cls, findings: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(findings)) < len(findings):
            raise ValueError("different names")
        return findings

    @field_validator("critical", mode="before")
    @classmethod
    def _by_name_or_number(cls, value: Any, info: ValidationInfo) -> tuple[int, ...]:
        if "findings" not in info.data:  # they have a fault of their own, which is told
            return ()
        findings = info.data["findings"]
        given = value if isinstance(value, list | tuple) else [value]
        numbers = [findings.index(one) if one in findings else one for one in given]
        try:
            return require_critical(numbers, classes=len(findings))
        except (ValueError, TypeError) as error:
            raise ValueError(f"one or several different ones of {list(findings)}, not all") from error

    @property
    def classes(self) -> int:
        """How many findings there are."""
        return len(self.findings)

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return self.classes

    @property
    def experiment_name(self) -> str:
        """Name of the experiment in MLflow and of its folder of ensembles."""
        names = "-".join(re.sub(r"[^A-Za-z0-9]+", "_", self.findings[number]) for number in self.critical)
        return f"prostate-critical-{names}{'-ordered' if self.ordered and len(self.critical) > 1 else ''}"

    def loss_named(self, name: str, parameters: Mapping[str, Any]) -> nn.Module:
        """Return a base loss of several classes by its name."""
        return make_class_loss(name, classes=self.classes, **parameters)

    def class_numbers(self, manifest: Manifest, path: Path) -> dict[str, int]:
        """Return the number of each study's finding by its id.

        Args:
            manifest: the cohort.
            path: where it was read from, for the message only.

        Raises:
            ValueError: its findings are not those of the settings, or the critical ones not those of label 1.
        """
        found = {study.finding: study.label for study in manifest.studies}
        if None in found:
            raise ValueError(
                f"studies must have a finding each to be told apart by it, got none in {path}. Add the column "
                "`finding` to the labels and build the manifest again."
            )
        if set(found) != set(self.findings):
            raise ValueError(
                f"findings must be those of the manifest, got {list(self.findings)}, and {sorted(map(str, found))} in "
                f"{path}. Change --findings."
            )
        critical = {self.findings[number] for number in self.critical}
        if critical != (labelled := {finding for finding, label in found.items() if label == 1}):
            raise ValueError(
                f"critical must be the findings with label 1, got {sorted(critical)}, and {sorted(map(str, labelled))} "
                f"in {path}. Change --critical, or the labels."
            )
        return {study.id: self.findings.index(str(study.finding)) for study in manifest.studies}

    def read_samples(self) -> Samples:
        """Return the samples of the member, labelled by the number of their finding.

        Raises:
            ValueError: as for two classes, or no training study of the member has one of the findings.
        """
        samples = super().read_samples()
        seen = {sample["label"] for sample in samples.train}
        if absent := [name for number, name in enumerate(self.findings) if number not in seen]:
            raise ValueError(
                f"training must have studies of each finding, got none of {absent[0]!r} among the {len(samples.train)} "
                f"of member {self.member}. Add such studies, or join findings in the labels."
            )
        return samples


def open_member(**places: Any) -> Member:
    """Open a trained member of several findings to evaluate it again: see `member.open_trained`."""
    silence_missing_decoders()
    return open_trained(CohortClassesSettings, **places)
