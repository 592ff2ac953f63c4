"""Answers as files: one JSON a study, written whole or not at all, and a table of all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prostate_alm.delivery.prediction import Answer, Identity, LesionCandidate, Prediction, Refused
from prostate_alm.whole_files import write_bytes_atomically, write_text_atomically

TABLE_FILE, SHEET_FILE = "answers.parquet", "answers.csv"
SCHEMA_FILE = Path(__file__).with_name("answer.schema.json")

_ANSWER: TypeAdapter[Prediction | Refused] = TypeAdapter(Answer)


_SHEET_COLUMNS = (
    "status", "decision", "probability", "logit", "logit_std", "target_tpr", "threshold", "warnings", "code", "reason",
    "file",
)  # fmt: skip
_LESION_COLUMNS = ("lesions", "lesion_x_mm", "lesion_y_mm", "lesion_z_mm")
_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class AnswersError(ValueError):
    """A folder of answers that must not be written to."""


def answer_to_json(answer: Answer) -> str:
    """Return an answer as the text of its file."""
    return answer.model_dump_json(indent=1) + "\n"


def answer_from_json(text: str | bytes) -> Answer:
    """Return the answer in the text of a file.

    Raises:
        ValueError: it is none.
    """
    return _ANSWER.validate_json(text)


def answer_schema() -> dict[str, Any]:
    """Return the JSON schema of an answer, which is published as `answer.schema.json`."""
    schema = _ANSWER.json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Answer of prostate-alm predict: Prediction or Refused",
        **schema,
    }


def answer_name(answer: Answer) -> str:
    """Return the name of an answer's file: the study's pseudonym, or a digest of its files where it has none."""
    if answer.study is not None:
        return f"{answer.study}.json"
    return f"refused-{answer.source_sha256[:16] if answer.source_sha256 else answer.code}.json"


def read_answers(folder: Path) -> dict[str, Answer]:
    """Return the answers in a folder by the name of their file; other files are left alone."""
    found: dict[str, Answer] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.name] = answer_from_json(path.read_bytes())
        except ValidationError:
            continue
    return found


def write_answer(answer: Answer, folder: Path) -> Path:
    """Write an answer under its name, whole or not at all, over one that is there."""
    path = folder / answer_name(answer)
    write_text_atomically(path, answer_to_json(answer))
    return path


def write_table(folder: Path, answers: Iterable[Answer]) -> Path:
    """Write the table of all answers, one row each, sorted by study."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    rows = _rows(answers)
    types = {
        "study": pa.string(),
        "status": pa.string(),
        "probability": pa.float64(),
        "decision": pa.string(),
        "logit": pa.float64(),
        "logit_std": pa.float64(),
        "target_tpr": pa.float64(),
        "threshold": pa.float64(),
        "warnings": pa.list_(pa.string()),
        "code": pa.string(),
        "reason": pa.string(),
        "model_sha256": pa.string(),
        "source_sha256": pa.string(),
        "file": pa.string(),
        **dict.fromkeys(_of_classes(rows), pa.string()),
        **{name: pa.int64() if name == "lesions" else pa.float64() for name in _of_lesions(rows)},
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(types.items()))), sink)
    path = folder / TABLE_FILE
    write_bytes_atomically(path, sink.getvalue().to_pybytes())
    return path


def write_sheet(folder: Path, answers: Iterable[Answer]) -> Path:
    """Write the same table for people, as CSV in UTF-8; with the identifiers where the answers have them.

    Text that a spreadsheet would take for a formula begins with an apostrophe: ids and reasons are strangers' words.
    """
    rows = _rows(answers)
    named = [name for name in Identity.model_fields if any(name in row for row in rows)]
    text = io.StringIO()
    columns = ["study", *named, *_SHEET_COLUMNS, *_of_classes(rows), *_of_lesions(rows)]
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    path = folder / SHEET_FILE
    write_text_atomically(path, text.getvalue())
    return path


def _of_classes(rows: list[dict[str, Any]]) -> list[str]:
    """Return the column that several classes have besides; none of two."""
    return ["called"] if any("called" in row for row in rows) else []


def _of_lesions(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the columns of a model of lesions: how many candidates, and where the surest is."""
    return _LESION_COLUMNS if any(_LESION_COLUMNS[0] in row for row in rows) else ()


def _cell(value: Any) -> Any:
    """Return a value as a spreadsheet shall show it, codes of warnings apart by spaces."""
    if isinstance(value, list):
        return " ".join(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_BEGINS_A_FORMULA) else value


def _rows(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """Return a row for each answer, with the identifiers that it has, sorted by study."""
    identities = ((answer, {} if answer.identity is None else answer.identity.model_dump()) for answer in answers)
    return sorted((_row(answer) | own for answer, own in identities), key=lambda row: str(row["file"]))


def _row(answer: Answer) -> dict[str, Any]:
    """Return one row; what an answer of its kind does not have stays empty."""
    row: dict[str, Any] = {
        "study": answer.study,
        "status": answer.status,
        "model_sha256": answer.model.sha256,
        "source_sha256": answer.source_sha256,
        "file": answer_name(answer),
    }
    if isinstance(answer, Refused):
        return row | {"code": answer.code, "reason": answer.reason}
    return row | {
        "probability": answer.probability,
        "decision": answer.decision,
        "logit": answer.logit,
        "logit_std": answer.logit_std,
        "target_tpr": answer.operating_point.target_tpr,
        "threshold": answer.operating_point.threshold,
        "warnings": [warning.code for warning in answer.warnings],
        **({} if answer.classes is None else {"called": answer.classes.called}),
        **({} if answer.lesions is None else _lesions_row(answer.lesions)),
    }


def _lesions_row(lesions: tuple[LesionCandidate, ...]) -> dict[str, Any]:
    return dict(zip(_LESION_COLUMNS, (len(lesions), *(lesions[0].position_mm if lesions else ())), strict=False))


def _write_schema() -> None:
    """Write the published schema: `python -m prostate_alm.delivery.answers`."""
    write_text_atomically(SCHEMA_FILE, json.dumps(answer_schema(), indent=1) + "\n")


if __name__ == "__main__":
    _write_schema()
