"""The words, limits and places that the choice of series goes by: `rules.json`, which a site may extend."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydicom.datadict import tag_for_keyword

_SCHEMA_KEY, _REMOVE_KEY = "$schema", "remove"
_RANGES = ("t2_echo_time_ms", "t2_echo_time_3d_ms")  # lists in JSON that a site replaces as a whole


class RulesError(ValueError):
    """A file of selection rules that cannot be used."""


def _number_of(text: Any) -> int:
    """Return a number written in hexadecimal, as tags are printed."""
    if not isinstance(text, str) or not re.fullmatch(r"0x[0-9a-fA-F]{1,4}", text):
        raise ValueError('must be hexadecimal text such as "0x0019"')
    return int(text, 16)


def _compilable(pattern: str) -> str:
    """Require a regular expression that compiles."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"must be a regular expression ({error})") from error
    return pattern


def _with_b_group(pattern: str) -> str:
    """Require a regular expression that marks the b-value."""
    if "b" not in re.compile(_compilable(pattern)).groupindex:
        raise ValueError("must mark the b-value as (?P<b>...)")
    return pattern


def _upper(word: str) -> str:
    """Require a word as it is compared: not empty, in capitals."""
    if not word.strip() or word != word.strip().upper():
        raise ValueError("must be a word in capitals")
    return word


def _keyword(word: str) -> str:
    """Require the keyword of a standard element."""
    if tag_for_keyword(word) is None:
        raise ValueError('must be a DICOM keyword such as "ImageComments"')
    return word


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    """Require a range."""
    if not limits[0] <= limits[1]:
        raise ValueError("must be a range, the lower end first")
    return limits


_HEXADECIMAL = WithJsonSchema({"type": "string", "pattern": "^0x[0-9a-fA-F]{1,4}$"})
Group = Annotated[int, BeforeValidator(_number_of), _HEXADECIMAL]
Pattern = Annotated[str, AfterValidator(_compilable)]
Word = Annotated[str, AfterValidator(_upper)]
Vr = Literal["CS", "DS", "FD", "FL", "IS", "LO", "LT", "SH", "SL", "SS", "ST", "UL", "US"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PrivateElement(_Frozen):
    """An element of a private block: found through its creator, read as `vr` when only bytes are left of it."""

    vendor: str = Field(default="private", min_length=1, description="Whose element it is, for messages.")
    creator: str = Field(min_length=1, description="Text of the private creator that reserves the block.")
    group: Group = Field(description='Group, odd, hexadecimal: "0x0019".')
    element: Annotated[Group, Field(le=0xFF)] = Field(description='Element within the block, hexadecimal: "0x0c".')
    vr: Vr = Field(default="IS", description="Type of the value where a file has lost it (UN, OB).")

    @property
    def source(self) -> str:
        """Return the place in words, with xx for the block number, which differs from file to file."""
        return f"{self.vendor} ({self.group:04X},xx{self.element:02X})"


class DirectionalityElement(PrivateElement):
    """A private element that says whether an image is a trace, and its words as those of (0018,9075)."""

    words: dict[str, Literal["ISOTROPIC", "DIRECTIONAL", "NONE", "BMATRIX", ""]] = Field(
        default={},
        description="The vendor's words in those of the standard, '' for none of them; others count as they stand.",
    )


class TextPlace(_Frozen):
    """A standard text element that holds the b-value in words."""

    vendor: str = Field(default="text", min_length=1, description="Whose habit it is, for messages.")
    keyword: Annotated[str, AfterValidator(_keyword)] = Field(description="Keyword of the standard element.")
    pattern: Annotated[str, AfterValidator(_with_b_group)] = Field(
        description="Regular expression with (?P<b>...); (?P<direction>x,y,z), unless all zero, marks one direction."
    )


class Rules(_Frozen):
    """What is data in the choice of series; docs/dicom.md tells where each rule is used. `rules.json` is the default.

    A site's file holds the keys that differ: a number replaces the default, entries of a list are added in front, and
    `remove` names entries of lists to leave out.
    """

    min_slices: int = Field(ge=2, description="Fewer positions are a localizer.")
    max_tilt_deg: float = Field(gt=0, lt=90, description="Largest angle of an axial slice normal to the body axis.")
    t2_echo_time_ms: Annotated[tuple[float, float], AfterValidator(_rising)] = Field(
        description="Echo times of T2 weighting; PI-RADS protocols use about 100, proton density and T1 stay below 40."
    )
    t2_echo_time_3d_ms: Annotated[tuple[float, float], AfterValidator(_rising)] = Field(
        description="The same for 3D spin echoes, whose nominal echo time is two to three times the effective one."
    )
    gland_length_mm: float = Field(
        gt=0,
        description="A stack this long covers the gland; shorter ones give way to longer ones before finer pixels.",
    )
    b_value_limit_s_per_mm2: float = Field(gt=0, description="A greater number is something else than a b-value.")
    b_value_tolerance_s_per_mm2: float = Field(
        ge=0, description="An acquired b-value this near a wanted one is used untouched."
    )
    min_b_value_spread_s_per_mm2: float = Field(
        ge=0, description="Least difference of the lowest and the highest b-value: a fit to less is one to noise."
    )
    timing_tolerance: float = Field(
        ge=0, lt=1, description="Relative difference of echo and repetition time within one diffusion protocol."
    )
    accept_lossy_pixels: bool = Field(description="Whether images whose compression lost information are used.")
    other_body_parts: tuple[Word, ...] = Field(description="BodyPartExamined of studies that are refused.")
    map_image_types: tuple[Word, ...] = Field(description="Words of ImageType that mark maps fitted to diffusion.")
    mosaic_image_types: tuple[Word, ...] = Field(
        description="Words of ImageType that mark slices tiled into one image."
    )
    fat_suppression_options: tuple[Word, ...] = Field(description="Words of ScanOptions that mark suppressed fat.")
    t2_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description makes a spin echo without an echo time T2. Case does not matter."
    )
    not_t2_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description keeps a spin echo from being T2."
    )
    spin_echo_patterns: tuple[Pattern, ...] = Field(
        description="Names of turbo spin echoes: with one, a word of diffusion in the description means nothing."
    )
    diffusion_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description of a series without b-values says that they are somewhere else."
    )
    adc_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description or in how the image was derived marks a map."
    )
    computed_patterns: tuple[Pattern, ...] = Field(
        description="Any found in ImageType, description or how it was derived marks a computed b-value."
    )
    phase_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description marks a phase image, where no element names its component."
    )
    inversion_patterns: tuple[Pattern, ...] = Field(description="Any found in the description marks STIR or FLAIR.")
    fat_suppressed_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description marks suppressed fat, where no element says it."
    )
    not_fat_suppressed_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description denies that fat was suppressed."
    )
    fat_image_patterns: tuple[Pattern, ...] = Field(description="Any found in the description marks an image of fat.")
    water_image_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description marks the water image of a Dixon acquisition."
    )
    opposed_phase_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description marks an opposed-phase image."
    )
    reversed_patterns: tuple[Pattern, ...] = Field(
        description="Any found in the description marks diffusion with the phase encoding reversed."
    )
    b_value_elements: tuple[PrivateElement, ...] = Field(
        description="Private b-value elements, asked in order after the standard one."
    )
    b_value_texts: tuple[TextPlace, ...] = Field(
        description="Text elements with a b-value, asked after the private ones."
    )
    directionality_elements: tuple[DirectionalityElement, ...] = Field(
        description="Private elements asked where (0018,9075) is absent."
    )

    def sha256(self) -> str:
        """Return a checksum of the rules, the same for the same rules however they came about."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


@lru_cache(maxsize=1)
def default_rules() -> Rules:
    """Return the rules of `rules.json`.

    >>> default_rules().t2_echo_time_ms
    (60.0, 250.0)
    """
    return Rules.model_validate_json(json.dumps(_default_values()))


def read_rules(path: Path) -> Rules:
    """Return the default rules with a site's file over them.

    Args:
        path: a JSON object with the keys of `Rules` that differ, and `remove` for entries of lists to leave out.

    Raises:
        RulesError: the file is no JSON object, or a key or value of it cannot be used; the message names both.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "my_rules.json")
        ...     _ = path.write_text('{"min_slices": 8, "t2_patterns": ["axial high"]}')
        ...     rules = read_rules(path)
        >>> rules.min_slices, rules.t2_patterns[0], len(rules.t2_patterns)
        (8, 'axial high', 2)
    """
    try:
        site = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
    except RulesError as error:
        raise RulesError(f"{error} in {path}. Write it once.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RulesError(
            f"rules must be JSON, got {' '.join(str(error).split())} in {path}. Correct the file."
        ) from error
    if not isinstance(site, dict):
        raise RulesError(f"rules must be a JSON object, got {type(site).__name__} in {path}. Write {{...}}.")
    site.pop(_SCHEMA_KEY, None)
    merged = _merged(site, path=path)
    try:
        return Rules.model_validate_json(json.dumps(merged))
    except ValidationError as error:
        raise RulesError(_told(error, path=path)) from error


def chosen_rules(path: Path | None) -> Rules:
    """Return the rules of a site's file, the default ones where none is given; see `read_rules`."""
    return default_rules() if path is None else read_rules(path)


def site_schema() -> dict[str, Any]:
    """Return the JSON schema of a site's file: the keys of `Rules`, none required, and `remove`."""
    schema = Rules.model_json_schema()
    lists = {name: one for name, one in schema["properties"].items() if one["type"] == "array" and "items" in one}
    del schema["required"]
    remove = {"type": "object", "additionalProperties": False, "properties": lists}
    remove["description"] = "Entries of the default lists to leave out, written as they are there."
    schema["properties"] |= {_REMOVE_KEY: remove, _SCHEMA_KEY: {"type": "string"}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Selection rules of a site"}


def found_in(text: str, patterns: tuple[str, ...]) -> bool:
    """Return whether any of the patterns occurs in a text, whatever its case.

    >>> found_in("ep2d_diff_ADC", ("adc$",)), found_in("anything", ())
    (True, False)
    """
    return any(one.search(text) for one in _compiled(patterns))


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Return the patterns, compiled once."""
    return tuple(re.compile(one, re.IGNORECASE) for one in patterns)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the entries of a JSON object, none of which may be lost to a later one of the same key."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RulesError(f"keys must be distinct, got {twice!r} twice")
    return dict(pairs)


def _default_values() -> dict[str, Any]:
    """Return the content of `rules.json`."""
    values: dict[str, Any] = json.loads(files(__package__).joinpath("rules.json").read_text(encoding="utf-8"))
    del values[_SCHEMA_KEY]
    return values


def _merged(site: dict[str, Any], *, path: Path) -> dict[str, Any]:
    """Return the default values with a site's over them."""
    values = _default_values()
    removals = site.pop(_REMOVE_KEY, {})
    lists = [name for name in values if _is_list_of_entries(name)]
    if not isinstance(removals, dict):
        raise RulesError(f"{_REMOVE_KEY} must be an object of lists, got {removals!r} in {path}. Available: {lists}")
    for place, given, known in ((path, site, [*values, _REMOVE_KEY]), (f"{_REMOVE_KEY} in {path}", removals, lists)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise RulesError(f"rules must have known keys, got {unknown[0]!r} in {place}. Available: {known}")
    for name, entries in removals.items():
        values[name] = _without(values[name], entries, name=name, path=path)
    for name, value in site.items():
        is_list = isinstance(value, list) and _is_list_of_entries(name)
        values[name] = [*value, *values[name]] if is_list else value
    return values


def _without(entries: list[Any], unwanted: Any, *, name: str, path: Path) -> list[Any]:
    """Return a list without the unwanted entries, each of which must be in it."""
    for one in _require_list(unwanted, name=name, path=path):
        if one not in entries:
            raise RulesError(
                f"{_REMOVE_KEY}.{name} must name entries of the default rules, got {json.dumps(one)} in {path}. "
                f"Available: {json.dumps(entries)}"
            )
    return [one for one in entries if one not in unwanted]


def _require_list(value: Any, *, name: str, path: Path) -> Sequence[Any]:
    """Return a list, or refuse what is none."""
    if not isinstance(value, list):
        raise RulesError(f"{_REMOVE_KEY}.{name} must be a list, got {json.dumps(value)} in {path}. Write [...].")
    return value


def _is_list_of_entries(name: str) -> bool:
    """Return whether a rule is a list that grows, not a number or a range."""
    return isinstance(_default_values()[name], list) and name not in _RANGES


def _told(error: ValidationError, *, path: Path) -> str:
    """Return the first fault of a file in one line: key, fault, value, file."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    if first["type"] == "extra_forbidden":
        *inside, name = first["loc"]
        known = _keys_at(first["loc"])
        return f"rules must have known keys, got {name!r} in {_place(inside)} of {path}. Available: {known}"
    fault = first["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)
    said = fault if fault.startswith("must ") else f"must be valid ({fault})"
    others = f" Available: {_keys_at(first['loc'])}" if first["type"] == "missing" else ""
    got = json.dumps(first["input"], default=str)
    return f"{_place(first['loc'])} {said}, got {got} in {path}. Correct the file.{others}"


def _place(parts: Sequence[int | str]) -> str:
    """Return where a value is in the file, as programs write it: b_value_elements[0].group."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the entries of a list of objects."""
    models: dict[int | str, type[BaseModel]] = {
        "b_value_elements": PrivateElement,
        "b_value_texts": TextPlace,
        "directionality_elements": DirectionalityElement,
    }
    return list(models.get(place[0], Rules).model_fields)
