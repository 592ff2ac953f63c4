"""What was chosen of a study, and how it is shown: as JSON, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prostate_alm.imaging.dicom import Instance, Series, Skipped
from prostate_alm.imaging.rules import Judgement, listed, trace_images


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a study is not used: a stable code (docs/dicom.md lists them) and one line."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a study that is used may be another than it seems: a stable code (docs/dicom.md lists them) and one line."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class DiffusionSeries:
    """A series and those of its b-values that are used, ascending."""

    series: Series
    b_values_s_per_mm2: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The series taken from a study, what was thought of each, and why the study is refused, if it is."""

    t2: Series | None
    dwi: tuple[DiffusionSeries, ...]
    refused: Refusal | None
    series: tuple[Judgement, ...]
    skipped: tuple[Skipped, ...] = ()
    doubts: tuple[Doubt, ...] = ()

    @property
    def used(self) -> tuple[Series, ...]:
        """Return the series taken: T2 first, then diffusion."""
        first = () if self.t2 is None else (self.t2,)
        return first + tuple(one.series for one in self.dwi)

    def to_dict(self) -> dict[str, Any]:
        """Return the selection as plain JSON values; docs/dicom.md describes the keys."""
        refused = None if self.refused is None else {"code": self.refused.code, "reason": self.refused.reason}
        return {
            "t2": None if self.t2 is None else _named(self.t2),
            "dwi": [{**_named(one.series), "b_values": list(one.b_values_s_per_mm2)} for one in self.dwi],
            "refused": refused,
            "warnings": [{"code": one.code, "message": one.message} for one in self.doubts],
            "series": [_row(judgement) for judgement in self.series],
        }

    def to_text(self) -> str:
        """Return the selection as a table for a terminal."""
        rows = [("series", "description", "role", "b-values", "reason")]
        for row in map(_row, self.series):
            values = listed(row["b_values"])
            rows.append((str(row["series_number"]), row["description"], row["role"], values, row["reason"]))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [_aligned(row, widths) for row in rows]
        if self.skipped:
            lines.append(f"{len(self.skipped)} files skipped: {skip_reasons(self.skipped)}")
        lines.extend(f"warning ({one.code}): {one.message}" for one in self.doubts)
        lines.append(self._verdict())
        return "\n".join(lines)

    def _verdict(self) -> str:
        """Return the last line of the table."""
        if self.refused is not None:
            return f"refused ({self.refused.code}): {self.refused.reason}"
        parts = ", ".join(f"{one.series.number} (b {listed(one.b_values_s_per_mm2)})" for one in self.dwi)
        return f"usable: T2 from series {self.t2.number if self.t2 else '?'}, diffusion from series {parts}"


def image_stacks(selection: Selection) -> list[tuple[str, tuple[Instance, ...]]]:
    """Return the images of each volume of a selection, with its place in words: T2, then each b-value ascending."""
    found = [] if selection.t2 is None else [(f"series {selection.t2.number}", selection.t2.instances)]
    pairs = [(value, one.series) for one in selection.dwi for value in one.b_values_s_per_mm2]
    for value, series in sorted(pairs, key=lambda pair: pair[0]):
        images = trace_images(series, b_value_s_per_mm2=value)
        found.append((f"series {series.number}, b {value:g}", images))
    return found


def skip_reasons(skipped: Sequence[Skipped]) -> str:
    """Return why files were skipped, each reason once; never their names, which may be a patient's."""
    return "; ".join(sorted({one.reason for one in skipped}))


def _named(series: Series) -> dict[str, Any]:
    """Return how a series is named in JSON."""
    return {"series_number": series.number, "series_uid": series.uid}


def _row(judgement: Judgement) -> dict[str, Any]:
    """Return one line of the explanation."""
    return {
        "series_number": judgement.series.number,
        "description": judgement.series.description,
        "role": judgement.role,
        "b_values": list(judgement.series.b_values_s_per_mm2),
        "reason": judgement.reason,
    }


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of the table."""
    cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
    return "  ".join([*cells, row[-1]]).rstrip()
