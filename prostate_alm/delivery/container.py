"""What a container that answers once reads and writes: for mercure, for grand-challenge, or in plain folders."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from prostate_alm.delivery.answers import answer_to_json
from prostate_alm.delivery.beside import BesideKind
from prostate_alm.delivery.prediction import NOTICE, UNEXPECTED, Answer
from prostate_alm.delivery.sources import find_sources
from prostate_alm.whole_files import write_text_atomically

MODEL_VARIABLE, SETTINGS_VARIABLE = "PROSTATE_ALM_MODEL", "PROSTATE_ALM_SETTINGS"
_MERCURE_VARIABLES = ("MERCURE_IN_DIR", "MERCURE_OUT_DIR")
_TASK_FILE = "task.json"
_MODEL_FILE = "prostate.zip"


class ContainerError(ValueError):
    """Folders, variables or settings from which nobody could tell what is to be answered."""


class ContainerSettings(BaseModel):
    """What may be asked of the container; `beside` is what `predict` writes with the options of these names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    target_tpr: float | None = None
    language: str = "en"
    label: str = ""
    beside: tuple[BesideKind, ...] = ()


@dataclass(frozen=True)
class Exchange:
    """Who started the container, and where its studies, answers and packed model lie."""

    kind: Literal["mercure", "grand-challenge", "folders"]
    input_dir: Path
    output_dir: Path
    model: Path

    @property
    def is_one_study(self) -> bool:
        """Whether all images are of one study, whose refusal is a result like any other."""
        return self.kind != "folders"


def chosen_exchange(environment: Mapping[str, str], *, root: Path = Path("/")) -> Exchange:
    """Return what the environment says: mercure's two folders where it names them, else /input, else /in.

    Args:
        environment: variables; PROSTATE_ALM_MODEL names the packed model, which else lies in `/model`, and where
            grand-challenge unpacks models, in `/opt/ml/model`.
        root: where `/in`, `/input`, `/model` and the like begin.

    Raises:
        ContainerError: no such folder is there, both are, one of mercure's variables is missing, or no folder is there
            to write to.

    >>> chosen_exchange({"MERCURE_IN_DIR": ".", "MERCURE_OUT_DIR": "."}).kind
    'mercure'
    """
    named = [Path(environment[name]) for name in _MERCURE_VARIABLES if environment.get(name)]
    there = [name for name in ("input", "in") if (root / name).is_dir()]
    model = environment.get(MODEL_VARIABLE)
    own, theirs = root / "model" / _MODEL_FILE, root / "opt/ml/model" / _MODEL_FILE
    if len(named) == 1:
        raise ContainerError(f"{' and '.join(_MERCURE_VARIABLES)} must both be set, got one of them. Set both or none.")
    if named:
        exchange = Exchange("mercure", named[0], named[1], Path(model or own))
    elif there == ["input"]:
        exchange = Exchange("grand-challenge", root / "input", root / "output", Path(model or theirs))
    elif there == ["in"]:
        exchange = Exchange("folders", root / "in", root / "out", Path(model or own))
    else:
        raise ContainerError(
            f"input must be one of the folders /in and /input, or $MERCURE_IN_DIR, got {'both' if there else 'none'}. "
            "Mount one, as docker/README.md shows, or give a command, see prostate-alm --help."
        )
    for what, folder in {"input": exchange.input_dir, "output": exchange.output_dir}.items():
        if not folder.is_dir():  # one that is made within the container would be gone with it
            raise ContainerError(f"{what} must be an existing folder, got {folder}. Mount it.")
    return exchange


def settings_of(exchange: Exchange, environment: Mapping[str, str]) -> ContainerSettings:
    """Return the settings: `process.settings` in mercure's task.json, else the JSON in PROSTATE_ALM_SETTINGS.

    A module of mercure returns DICOM, so there structured report and capture are written where `beside` is not set.

    Raises:
        ContainerError: they cannot be read, or hold what no setting is called or can be; nothing of task.json, which
            names the patient, is repeated but the name of a setting.

    >>> here = Exchange("folders", Path("in"), Path("out"), Path("prostate.zip"))
    >>> settings_of(here, {"PROSTATE_ALM_SETTINGS": '{"target_tpr": 0.9}'}).target_tpr
    0.9
    """
    if exchange.kind != "mercure":
        return _checked(_parsed(environment.get(SETTINGS_VARIABLE) or "{}", SETTINGS_VARIABLE), SETTINGS_VARIABLE)
    try:
        task = _parsed((exchange.input_dir / _TASK_FILE).read_text(encoding="utf-8"), _TASK_FILE)
        given = (task.get("process") or {}).get("settings") or {}
        return _checked({"beside": ["sr", "capture"], **given}, _TASK_FILE)
    except FileNotFoundError:
        raise ContainerError(f"input must hold {_TASK_FILE}, got none. Start the module through mercure.") from None
    except (AttributeError, TypeError, UnicodeError):
        raise ContainerError(
            f"{_TASK_FILE} must hold an object process.settings, got another kind of JSON. Mend the module's settings."
        ) from None


@contextlib.contextmanager
def sources_of(exchange: Exchange) -> Iterator[tuple[Path, ...]]:
    """Yield what `answer_archive` is to answer; of one study a folder of links to its images, there until the end.

    What mercure and grand-challenge put beside the images is of the task, not of the study: left out, the same images
    have the same answer.

    Raises:
        ContainerError: grand-challenge gave images in another format than DICOM.
        SourceError: as `find_sources`.
    """
    if not exchange.is_one_study:
        yield find_sources([exchange.input_dir])
        return
    _require_dicom(exchange)
    images = sorted(path for path in exchange.input_dir.rglob("*.dcm") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="prostate-alm-") as name:
        for number, image in enumerate(images):
            Path(name, f"{number}.dcm").symlink_to(image.resolve())
        yield (Path(name),)


def write_result(exchange: Exchange, answers: Sequence[Answer]) -> None:
    """Write what a platform reads: mercure result.json, grand-challenge results.json, which is the answer itself."""
    if not exchange.is_one_study:
        return
    (answer,) = answers
    if exchange.kind == "mercure":
        write_text_atomically(exchange.output_dir / "result.json", json.dumps(mercure_result(answer), indent=1) + "\n")
    else:
        write_text_atomically(exchange.output_dir / "results.json", answer_to_json(answer))


def is_done(exchange: Exchange, answer: Answer) -> bool:
    """Return whether the platform shall take the task for done: also a refusal is a result, a fault of ours is none."""
    if answer.status == "answered":
        return True
    return exchange.is_one_study and answer.code != UNEXPECTED


def mercure_result(answer: Answer) -> dict[str, Any]:
    """Return the result that mercure keeps and sends with its notifications; no word of it is the scanner's.

    A notification is requested of a positive study and of one that was refused, where the rule sends on request.
    """
    model = {"name": answer.model.name, "version": answer.model.version, "sha256": answer.model.sha256}
    found: dict[str, Any] = {"status": answer.status, "study": answer.study, "model": model, "notice": NOTICE}
    if answer.status == "refused":
        found |= {"code": answer.code, "reason": answer.reason}
        text = f"refused ({answer.code})"
    else:
        codes = list(dict.fromkeys(warning.code for warning in answer.warnings))
        target_tpr = answer.operating_point.target_tpr
        found |= {
            "decision": answer.decision,
            "probability": answer.probability,
            "target_tpr": target_tpr,
            "warnings": codes,
        }
        text = f"{answer.decision} at TPR {target_tpr:g}, probability {answer.probability:.3f}"
        text += f", warnings: {', '.join(codes)}" if codes else ""
    requested = answer.status == "refused" or answer.decision == "positive"
    return found | {"__mercure_notification": {"text": f"prostate-alm: {text}. {NOTICE}", "requested": requested}}


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ContainerError(f"settings must be JSON, got text that is none in {where}. Mend it.") from None


def _checked(given: Any, where: str) -> ContainerSettings:
    try:
        return ContainerSettings.model_validate_json(json.dumps(given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"])) or "JSON"
        raise ContainerError(
            f"settings must be of {', '.join(ContainerSettings.model_fields)}, got {name} ({first['msg']}) in {where}. "
            "See docs/predict.md."
        ) from None


def _require_dicom(exchange: Exchange) -> None:
    """Refuse converted images: without headers neither b-values nor doubts about the acquisition are known."""
    files = (path for path in (exchange.input_dir / "images").rglob("*") if path.is_file())
    others = sorted({path.suffix for path in files} - {".dcm"})
    if exchange.kind == "grand-challenge" and others:
        raise ContainerError(
            f"images must be DICOM, got {' '.join(others)} in {exchange.input_dir / 'images'}. "
            "Choose sockets of the kind DICOM image set: b-values and warnings come from headers."
        )
