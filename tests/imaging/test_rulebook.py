"""The rules of the selection as data: what a site adds, what it takes away, and how its mistakes are told."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from prostate_alm.cli import main
from prostate_alm.data.convert import convert_study
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.rulebook import Rules, RulesError, default_rules, read_rules, site_schema
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import load_study

DOCS = Path(__file__).resolve().parents[2] / "docs" / "dicom.md"
PACKAGE = files("prostate_alm.imaging")


def _written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "my_rules.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _rules(tmp_path: Path, content: object) -> Rules:
    return read_rules(_written(tmp_path, content))


def test_the_published_schema_is_that_of_the_model_and_admits_the_default_rules():
    schema = json.loads(PACKAGE.joinpath("rules.schema.json").read_text())
    assert schema == site_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(PACKAGE.joinpath("rules.json").read_text()), schema)


def test_the_documented_example_is_a_valid_file(tmp_path):
    section = DOCS.read_text(encoding="utf-8").split("## A site's own rules")[1]
    example = section[section.index("    {") : section.index("    }\n") + 5]
    jsonschema.validate(json.loads(example), site_schema())
    assert _rules(tmp_path, example).min_slices == 8


def test_every_rule_is_described():
    assert all(field.description for field in Rules.model_fields.values())


def test_an_empty_file_changes_nothing(tmp_path):
    assert _rules(tmp_path, {}) == default_rules()
    assert _rules(tmp_path, {}).sha256() == default_rules().sha256()
    assert _rules(tmp_path, {"min_slices": 6}).sha256() != default_rules().sha256()


def test_numbers_replace_lists_grow_and_entries_can_be_removed(tmp_path):
    site = {
        "$schema": "rules.schema.json",
        "min_slices": 9,
        "t2_echo_time_ms": [50, 300],
        "other_body_parts": ["PELVIS"],
        "remove": {"other_body_parts": ["CHEST"]},
    }
    rules, default = _rules(tmp_path, site), default_rules()
    jsonschema.validate(site, site_schema())
    assert (rules.min_slices, rules.t2_echo_time_ms) == (9, (50.0, 300.0))
    assert rules.other_body_parts == ("PELVIS", *(one for one in default.other_body_parts if one != "CHEST"))
    assert rules.t2_patterns == default.t2_patterns


def test_a_sites_own_private_element_is_read(build, tmp_path):
    images = build.study()
    for image in images[6:]:
        b_value = image.DiffusionBValue
        del image.DiffusionBValue
        image.add_new((0x0021, 0x0010), "LO", "OUR SCANNER")
        image.add_new((0x0021, 0x1042), "UN", f"{b_value:.0f}".encode().ljust(4))
    folder = build.save(tmp_path / "study", images)
    place = {"creator": "OUR SCANNER", "group": "0x0021", "element": "0x42"}
    rules = _rules(tmp_path, {"b_value_elements": [place]})
    assert explain_study(folder).refused.code == "no_diffusion"
    found = load_study(folder, rules=rules)
    assert found.b_values_acquired_s_per_mm2 == (50.0, 400.0, 800.0)
    assert "private (0021,xx42)" in found.selection.series[1].reason


def test_a_b_value_that_is_only_in_the_description_is_read(build, tmp_path):
    images = build.series(2)
    for number, b_value in ((3, 50), (4, 800)):
        images += build.diffusion(number, b_values=(None,), SeriesDescription=f"ax_resolve b {b_value}")
    folder = build.save(tmp_path / "study", images)
    place = {"vendor": "our", "keyword": "SeriesDescription", "pattern": "\\bb ?(?P<b>[0-9]+)$"}
    selection = explain_study(folder, rules=_rules(tmp_path, {"b_value_texts": [place]}))
    assert [one.b_values_s_per_mm2 for one in selection.dwi] == [(50.0,), (800.0,)]


LIMITS = [
    ({"min_slices": 6}, None),
    ({"min_slices": 7}, "no_t2"),
    ({"max_tilt_deg": 6.5}, None),  # the study is 6.3 degrees oblique
    ({"max_tilt_deg": 6}, "no_t2"),
    ({"t2_echo_time_ms": [104, 104]}, None),
    ({"t2_echo_time_ms": [105, 200]}, "no_t2"),
    ({"b_value_limit_s_per_mm2": 800}, None),
    ({"b_value_limit_s_per_mm2": 40}, "no_diffusion"),
    ({"other_body_parts": ["PROSTATE"]}, "other_body_part"),
    ({"map_image_types": ["TRACEW"]}, "no_diffusion"),
    ({"mosaic_image_types": ["TRACEW"]}, "no_diffusion"),
    ({"adc_patterns": ["^t2"]}, "no_t2"),
    ({"computed_patterns": ["diff"]}, "no_diffusion"),
    ({"not_t2_patterns": ["tse"]}, "no_t2"),
]


@pytest.mark.parametrize(("site", "code"), LIMITS, ids=[json.dumps(site) for site, _ in LIMITS])
def test_each_rule_decides(build, tmp_path, site, code):
    folder = build.save(tmp_path / "study", build.study(BodyPartExamined="PROSTATE"))
    refused = explain_study(folder, rules=_rules(tmp_path, site)).refused
    assert (refused and refused.code) == code


def test_timing_and_b_value_tolerance_decide(build, tmp_path):
    apart = build.diffusion(3, b_values=(50.0,)) + build.diffusion(4, b_values=(800.0,), EchoTime=64.0)
    folder = build.save(tmp_path / "study", build.series(2) + apart)
    assert explain_study(folder).refused.code == "one_b_value"
    rules = _rules(tmp_path, {"timing_tolerance": 0.05, "b_value_tolerance_s_per_mm2": 200})
    found = load_study(folder, b_values_s_per_mm2=(600.0,), rules=rules)
    assert found.b_values_computed == (False,)


def test_a_word_of_the_site_makes_a_series_t2(build, tmp_path):
    images = build.series(2, EchoTime=None, SeriesDescription="axial high resolution") + build.diffusion(3)
    folder = build.save(tmp_path / "study", images)
    assert explain_study(folder).refused.code == "no_t2"
    assert explain_study(folder, rules=_rules(tmp_path, {"t2_patterns": ["(?i)axial high"]})).refused is None


PLACE = {"creator": "OUR SCANNER", "group": "0x0021", "element": "0x42"}
MISTAKES = {
    "unknown key": ({"min_slice": 4}, "rules must have known keys, got 'min_slice'", "'min_slices'"),
    "unknown key of an entry": (
        {"b_value_elements": [PLACE | {"grp": "0x1"}]}, "got 'grp' in b_value_elements[0]", "'vr'"
    ),
    "missing key of an entry": ({"b_value_elements": [{"creator": "A"}]}, "b_value_elements[0].group", "'element'"),
    "unknown list to remove from": ({"remove": {"words": []}}, "got 'words' in remove", "'t2_patterns'"),
    "unknown entry to remove": ({"remove": {"t2_patterns": ["x"]}}, 'got "x"', "Available"),
    "no list to remove": ({"remove": {"t2_patterns": "x"}}, "remove.t2_patterns must be a list", ""),
    "no object to remove from": ({"remove": []}, "remove must be an object", "'t2_patterns'"),
    "bad pattern": ({"adc_patterns": ["(abc"]}, "adc_patterns[0] must be a regular expression", '"(abc"'),
    "pattern without b": (
        {"b_value_texts": [{"keyword": "ImageComments", "pattern": "b=1"}]}, "b_value_texts[0].pattern must mark", ""
    ),
    "unknown keyword": (
        {"b_value_texts": [{"keyword": "Comments", "pattern": "(?P<b>1)"}]}, "keyword must be a DICOM keyword", ""
    ),
    "text for a number": ({"min_slices": "5"}, "min_slices must be a valid integer", '"5"'),
    "number for hexadecimal text": (
        {"b_value_elements": [PLACE | {"group": 33}]}, "[0].group must be hexadecimal", "33"
    ),
    "element beyond its block": ({"b_value_elements": [PLACE | {"element": "0x142"}]}, "[0].element must be", "0x142"),
    "text for a list": ({"t2_patterns": "T2"}, "t2_patterns must be", '"T2"'),
    "small letters": ({"other_body_parts": ["Knee"]}, "other_body_parts[0] must be a word in capitals", '"Knee"'),
    "turned range": ({"t2_echo_time_ms": [250, 60]}, "t2_echo_time_ms must be a range", "250"),
    "out of range": ({"max_tilt_deg": 90}, "max_tilt_deg must be less than 90", "90"),
    "no number": ('{"timing_tolerance": NaN}', "timing_tolerance must be", ""),
    "not an object": ([], "rules must be a JSON object", "list"),
    "not JSON": ("{", "rules must be JSON", ""),
    "a key twice": ('{"min_slices": 4, "min_slices": 5}', "keys must be distinct, got 'min_slices' twice", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_key_and_file(tmp_path, capsys, case):
    content, said, also = MISTAKES[case]
    path = _written(tmp_path, content)
    with pytest.raises(RulesError):
        read_rules(path)
    assert main(["study", "explain", str(tmp_path), "--rules", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert also in error
    assert str(path) in error


def test_the_command_line_uses_the_sites_rules(build, tmp_path, capsys):
    folder = build.save(tmp_path / "study", build.study())
    path = _written(tmp_path, {"min_slices": 7})
    assert main(["study", "explain", str(folder)]) == 0
    assert main(["study", "explain", str(folder), "--rules", str(path)]) == 2
    assert "too few slices: 6, fewer than 7" in capsys.readouterr().out
    assert main(["study", "explain", str(folder), "--rules", str(tmp_path / "missing.json")]) == 2


def test_a_conversion_under_other_rules_is_made_again(build, tmp_path):
    folder = build.save(tmp_path / "study", build.study())
    for rules in (None, _rules(tmp_path, {}), _rules(tmp_path, {"min_slices": 6})):
        sidecar = convert_study(folder, tmp_path / "volumes", b_values_s_per_mm2=(50.0, 800.0), rules=rules)
        is_default = rules is None or rules == default_rules()
        assert sidecar.rules_sha256 == (None if is_default else rules.sha256())
    strict = _rules(tmp_path, {"min_slices": 7})
    with pytest.raises(StudyRefused, match="no_t2"):
        convert_study(folder, tmp_path / "volumes", b_values_s_per_mm2=(50.0, 800.0), rules=strict)
