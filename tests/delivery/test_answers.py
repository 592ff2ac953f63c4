"""Answers as files: the published schema, and no cell of a table that a program for tables would execute."""

import csv
import io
import json

import jsonschema

from prostate_alm.delivery.answers import SCHEMA_FILE, answer_schema, write_sheet
from prostate_alm.delivery.predict import predict_folder


def test_no_cell_of_the_table_for_people_is_a_formula(phantom_study, packed_model, tmp_path):
    answer = predict_folder(phantom_study, packed_model, identify=True).answer
    hostile = ["=1+cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1"]
    identities = [answer.identity.model_copy(update={"patient_id": text}) for text in hostile]
    sheet = write_sheet(tmp_path, [answer.model_copy(update={"identity": one}) for one in identities])
    cells = [cell for row in csv.reader(io.StringIO(sheet.read_text(), newline="")) for cell in row]
    assert {f"'{text}" for text in hostile} <= set(cells)
    numbers = [cell for cell in cells if cell.startswith(tuple("=+-@"))]
    assert all(float(cell) < 0 for cell in numbers)


def test_the_published_schema_is_that_of_the_code():
    assert json.loads(SCHEMA_FILE.read_text()) == answer_schema(), "run python -m prostate_alm.delivery.answers"
    jsonschema.Draft202012Validator.check_schema(answer_schema())
