"""The plan of an experiment as data: which classes, ratios and losses, and which candidates are searched for each."""

import itertools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from prostate_alm.results.run_folder import changed_keys
from prostate_alm.shipped import config_files_of
from prostate_alm.whole_files import sha256_of_file, write_text_atomically

PLAN_FILE = "plan.json"
_SHA256, _BASE_SHA256 = "bundle_sha256", "base_sha256"
"""In the record of a plan: checksums of the config file, and of the one that it is laid over."""

_SHARE = re.compile(r"(\d*)N(?:/(\d+))?")
_GIVEN_BY_THE_GRID = {"majority", "minority", "ratio", "loss", "loss_parameters", "alm", "mu0", "rho", "delta"} | {
    *("critical", "imbalance"),
}
_GIVEN_BY_THE_RUN = {"seed", "member", "output_dir", "resume", "overwrite"}


def _value(value: Any) -> float | str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number or (isinstance(value, str) and _SHARE.fullmatch(value)):
        return float(value) if number else str(value)
    raise ValueError("must be a number, or a multiple of the class ratio N such as 'N/3'")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Pair = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
"""Majority and minority class of a data set of many classes."""

Task = Pair | tuple[int]
"""What is told apart: a pair of classes, or all of a data set, of which one is critical."""

SearchedValue = Annotated[float | str, PlainValidator(_value)]
SearchedValues = Annotated[tuple[SearchedValue, ...], BeforeValidator(_as_list), Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def is_absent(value: object) -> bool:
    """Return whether a plan does not have what is then left out of its record."""
    return value is None


class Penalty(BaseModel):
    """Candidates of the constraint; `mu0_rho` is searched first with the first `delta`, then `delta`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mu0_rho: tuple[tuple[Positive, Annotated[float, Field(ge=1, allow_inf_nan=False)]], ...] = Field(min_length=1)
    delta: Annotated[tuple[NotNegative, ...], BeforeValidator(_as_list), Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> "Penalty":
        if len(set(self.mu0_rho)) < len(self.mu0_rho) or len(set(self.delta)) < len(self.delta):
            raise ValueError("must be without a candidate that is there twice")
        return self


class Plan(BaseModel):
    """An experiment: every loss at every class ratio of pairs of classes or of a cohort, alone and with the constraint.

    `bundle` is the config file of the bundle, or an overlay, relative to the plan's own file; `dataset` starts the
    names of folders; `pairs` are (majority, minority) classes, absent for a bundle whose data have two classes only;
    `critical` are classes that are critical in turn where all are told apart, and a ratio is then the imbalance of the
    largest class to the smallest; `losses` gives each
    loss's own parameters, one value or a list of candidates; losses of `baseline_only` are not combined with the
    constraint; `settings` are the bundle's, the same for all runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    bundle: Path
    dataset: str = Field(pattern=r"^[a-z0-9]+$")
    pairs: tuple[Pair, ...] | None = Field(default=None, min_length=1)
    critical: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1, exclude_if=is_absent)
    ratios: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    losses: dict[str, dict[str, SearchedValues]] = Field(min_length=1)
    baseline_only: tuple[str, ...] = ()
    alm: Penalty
    members: int = Field(ge=1)
    seed: int = Field(ge=0)
    settings: dict[str, Any]

    @model_validator(mode="after")
    def _consistent(self) -> "Plan":
        for fault in _faults(self):
            raise ValueError(fault)
        return self

    @property
    def tasks(self) -> tuple[Task | None, ...]:
        """What is trained: pairs of classes, critical ones among all, or None for a cohort of two."""
        return self.pairs or tuple((number,) for number in self.critical or ()) or (None,)

    def loss_candidates(self, loss: str, ratio: int) -> list[dict[str, float]]:
        """Return the candidates of a loss's own parameters at a class ratio, in the order of the plan.

        Args:
            loss: one of `losses`.
            ratio: N of 1:N.

        Returns:
            `loss_parameters` of the bundle, one for each candidate; one empty candidate for a loss without parameters.
        """
        names = self.losses[loss]
        values = itertools.product(*([in_numbers(value, ratio) for value in some] for some in names.values()))
        unique = dict.fromkeys(values)  # N/3 and 1 are the same at 1:3
        return [dict(zip(names, candidate, strict=True)) for candidate in unique]

    def has_alm(self, loss: str) -> bool:
        """Whether the loss is also trained with the constraint."""
        return loss not in self.baseline_only


def in_numbers(value: float | str, ratio: int) -> float:
    """Return a candidate as a number; a multiple of N is taken of the class ratio.

    Args:
        value: a number, or text such as "N/3" or "2N/3".
        ratio: N.

    >>> in_numbers("2N/3", 9), in_numbers(0.5, 9)
    (6.0, 0.5)
    """
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    return int(match[1] or 1) * ratio / int(match[2] or 1) if match else float(value)


def pair_in_words(pair: Task | None) -> str:
    """Return what is told apart, in words.

    >>> pair_in_words((0, 1)), pair_in_words((3,)), pair_in_words(None)
    ('Classes 0 and 1', 'Critical class 3', 'Cohort')
    """
    if pair is None:
        return "Cohort"
    return f"Classes {pair[0]} and {pair[1]}" if len(pair) == 2 else f"Critical class {pair[0]}"


def pair_as_name(pair: Task | None) -> str:
    """Return what is told apart, as a part of a file's name.

    >>> pair_as_name((0, 1)), pair_as_name((3,)), pair_as_name(None)
    ('0-1', 'critical-3', 'cohort')
    """
    if pair is None:
        return "cohort"
    return f"{pair[0]}-{pair[1]}" if len(pair) == 2 else f"critical-{pair[0]}"


def _faults(plan: Plan) -> list[str]:
    """Return what is wrong between the fields, each in the words of `must be`."""
    from prostate_alm.method.class_losses import CLASS_LOSSES
    from prostate_alm.method.losses import LOSSES, parameters_of  # loads torch, which takes a second

    known = LOSSES if plan.critical is None else CLASS_LOSSES
    faults = _faults_of_classes(plan)
    pairs = plan.pairs or ()
    if any(majority == minority for majority, minority in pairs) or len(set(pairs)) < len(pairs):
        faults.append(f"pairs must be different pairs of two different classes, got {list(map(list, pairs))}")
    if len(set(plan.ratios)) < len(plan.ratios):
        faults.append(f"ratios must be without repetition, got {list(plan.ratios)}")
    for loss, parameters in plan.losses.items():
        wanted = set(parameters_of(loss, known)) - {"class_counts"} if loss in known else None
        if wanted is None:
            faults.append(f"losses must be known losses, got {loss!r}, available: {sorted(known)}")
        elif not set(parameters) <= wanted:
            faults.append(f"parameters of {loss} must be some of {sorted(wanted)}, got {sorted(parameters)}")
    if not set(plan.baseline_only) <= set(plan.losses):
        faults.append(f"baseline_only must be losses of the plan, got {list(plan.baseline_only)}")
    given = sorted((_GIVEN_BY_THE_GRID | _GIVEN_BY_THE_RUN) & set(plan.settings))
    if given:
        faults.append(f"settings must be without what the plan gives each run itself, got {given}")
    return faults


def _faults_of_classes(plan: Plan) -> list[str]:
    """Return what is wrong with a plan of several classes; the candidates are chosen by the AUC of the critical one."""
    if plan.critical is None:
        return []
    faults = []
    if plan.pairs is not None:
        faults.append("critical must be left out where there are pairs, got both")
    if len(set(plan.critical)) < len(plan.critical):
        faults.append(f"critical must name each class once, got {list(plan.critical)}")
    lists = [values for parameters in plan.losses.values() for values in parameters.values()]
    if any(len(values) > 1 for values in [*lists, plan.alm.mu0_rho, plan.alm.delta]):
        faults.append(
            "parameters must have one candidate each in a plan of several classes, got more: a choice by the AUC of "
            "the critical class does not see what the others pay"
        )
    return faults


def read_plan(path: Path) -> Plan:
    """Read a plan; its bundle is made relative to the working directory, as the plan's own path is.

    Args:
        path: a JSON file with the fields of `Plan`.

    Raises:
        ValueError: one line for each field that breaks its rule.
        OSError: the file cannot be read.
    """
    plan = _parsed(path.read_text(encoding="utf-8"), path)
    bundle = Path(os.path.normpath(path.parent / plan.bundle))
    if not bundle.is_file():
        raise ValueError(
            f"bundle must be a config file, got {plan.bundle} in {path}. Give its path relative to the plan's file."
        )
    return plan.model_copy(update={"bundle": bundle})


def replicate_of(plan: Plan, *, seed: int) -> Plan:
    """Return the same plan with another seed.

    Args:
        plan: any plan.
        seed: at least 0.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed} in the replicate of {plan.name}. Give another one.")
    return plan.model_copy(update={"seed": seed})


def _parsed(text: str, path: Path) -> Plan:
    try:
        return Plan.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"plan must be JSON, got {error} in {path}. Correct the file.") from error
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]
        raise ValueError("\n".join(_in_words(fault, path) for fault in faults)) from error


def _in_words(fault: Any, path: Path) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    rule = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not name:  # a fault between fields, with its own words
        return f"{rule} in {path}. Correct the plan."
    if fault["type"] in ("missing", "extra_forbidden"):
        rule = "given" if fault["type"] == "missing" else f"absent: there is no such field among {[*Plan.model_fields]}"
        return f"{name} must be {rule} in {path}. Correct the plan."
    rule = "a list of at least one" if fault["type"] == "too_short" else rule.removeprefix("must be ")
    return f"{name} must be {rule}, got {fault['input']!r} in {path}. Correct the plan."


def start_or_continue(plan: Plan, root: Path) -> None:
    """Note in `root` which plan its results belong to, or check that it is the same.

    The content of the config file counts, by its checksum; where it lies does not.

    Args:
        plan: what is about to run.
        root: folder of the experiment; made when absent.

    Raises:
        ValueError: one line when the folder was started with another plan.
    """
    record = _record(plan)
    path = root / PLAN_FILE
    if not path.is_file():
        root.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(record, indent=1) + "\n")
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    changed = changed_keys(record, earlier)
    if changed:
        key = changed[0]
        raise ValueError(
            f"plan must be the one that the folder was started with, got another {', '.join(changed)} "
            f"({key}: {record.get(key)!r}, was {earlier.get(key)!r}) in {path}. Choose another folder or that plan."
        )


def started_plan(root: Path) -> Plan:
    """Return the plan that a folder of results was started with; its bundle is a bare file name.

    Raises:
        ValueError: one line when there is none.
    """
    path = root / PLAN_FILE
    if not path.is_file():
        raise ValueError(
            f"folder must be that of an experiment, got no {PLAN_FILE} in {root}. Run the experiment first."
        )
    record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return _parsed(
        json.dumps({key: value for key, value in record.items() if key not in (_SHA256, _BASE_SHA256)}), path
    )


def _record(plan: Plan) -> dict[str, Any]:
    *below, own = config_files_of(plan.bundle)
    content = plan.model_dump(mode="json") | {"bundle": own.name, _SHA256: sha256_of_file(own)}
    if below:
        content[_BASE_SHA256] = sha256_of_file(below[0])
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain
