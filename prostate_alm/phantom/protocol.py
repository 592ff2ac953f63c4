"""How a synthetic study is written: whose scanner, where the b-values live, one diffusion series or several."""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

B_VALUE_FORMS = {
    "standard": ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips Medical Systems"),
    "siemens": ("SIEMENS",),
    "siemens bytes": ("SIEMENS",),
    "sequence name": ("SIEMENS",),
    "ge": ("GE MEDICAL SYSTEMS",),
    "ge biased": ("GE MEDICAL SYSTEMS",),
    "ge bytes": ("GE MEDICAL SYSTEMS",),
    "philips": ("Philips Medical Systems",),
    "philips bytes": ("Philips Medical Systems",),
}
ADC_B_VALUES = ("none", "lowest", "highest")
T2_ECHO_TIME_MS, DIFFUSION_ECHO_TIME_MS = 101.0, 58.0
T2_IMAGE_TYPES = {
    "SIEMENS": ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"],
    "GE MEDICAL SYSTEMS": ["ORIGINAL", "PRIMARY", "OTHER"],
    "Philips Medical Systems": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
}
TRACE_IMAGE_TYPES = {
    "SIEMENS": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "DIS2D"],
    "GE MEDICAL SYSTEMS": ["ORIGINAL", "PRIMARY", "OTHER"],
    "Philips Medical Systems": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
}
ADC_IMAGE_TYPES = {
    "SIEMENS": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "DIS2D"],
    "GE MEDICAL SYSTEMS": ["DERIVED", "SECONDARY", "ADC"],
    "Philips Medical Systems": ["DERIVED", "PRIMARY", "ADC", "ADC", "UNSPECIFIED"],
}
T2_NAMES = {
    "localizer": ("t2_localizer", "*h2d1_205", 1800, 92.0),
    "t2 sagittal": ("t2_tse_sag", "*tse2d1_25", 5590, T2_ECHO_TIME_MS),
    "t2 axial": ("t2_tse_tra", "*tse2d1_25", 5660, T2_ECHO_TIME_MS),
}


@dataclass(frozen=True)
class Protocol:
    """How the files of one study are written.

    `b_value_form` is one of `B_VALUE_FORMS`: the standard element (0018,9087), a vendor's private one, plain,
    with GE's bias of 1e9 or as the bytes that de-identification leaves, or nothing but the sequence's name.
    `adc_b_value` is the misleading b-value the ADC map carries: one of `ADC_B_VALUES`. `private_block` is the
    number of the private block, 0x10 or 0x11.
    """

    manufacturer: str
    b_value_form: str
    one_series: bool
    adc_b_value: str = "highest"
    private_block: int = 0x10
    descending: bool = False

    def __post_init__(self) -> None:
        if self.b_value_form not in B_VALUE_FORMS or self.manufacturer not in B_VALUE_FORMS[self.b_value_form]:
            raise ValueError(
                f"b_value_form must be one that {self.manufacturer} writes, got {self.b_value_form!r} in Protocol. "
                f"Available: {B_VALUE_FORMS}"
            )
        if self.adc_b_value not in ADC_B_VALUES:
            raise ValueError(
                f"adc_b_value must be one of {list(ADC_B_VALUES)}, got {self.adc_b_value!r} in Protocol. "
                "It is the b-value element of the ADC map."
            )


def draw_protocol(rng: np.random.Generator) -> Protocol:
    """Draw how one study is written; every form of b-value is equally likely.

    Args:
        rng: source of randomness; advanced.

    >>> draw_protocol(np.random.default_rng(0)).b_value_form in B_VALUE_FORMS
    True
    """
    form = list(B_VALUE_FORMS)[int(rng.integers(len(B_VALUE_FORMS)))]
    makers = B_VALUE_FORMS[form]
    return Protocol(
        manufacturer=makers[int(rng.integers(len(makers)))],
        b_value_form=form,
        one_series=bool(rng.integers(2)),
        adc_b_value=ADC_B_VALUES[int(rng.integers(len(ADC_B_VALUES)))],
        private_block=0x10 + int(rng.integers(2)),
        descending=bool(rng.integers(2)),
    )


def sequence_header(
    role: str, protocol: Protocol, *, b_value_s_per_mm2: float | None, acquired_s_per_mm2: tuple[float, ...]
) -> Dataset:
    """Name the sequence of one stack: image type, descriptions, scanning sequence and times.

    Args:
        role: localizer, t2 sagittal, t2 axial, diffusion, adc or computed.
        protocol: whose manner of writing.
        b_value_s_per_mm2: b-value of a diffusion stack, if it has one.
        acquired_s_per_mm2: the b-values that the study acquired.

    Reference:
        DICOM PS3.3 C.8.3.1 (MR Image Module).

    >>> written = Protocol("SIEMENS", "siemens", True)
    >>> sequence_header("diffusion", written, b_value_s_per_mm2=100.0, acquired_s_per_mm2=(100.0, 600.0)).SequenceName
    '*ep_b100t'
    """
    if role in T2_NAMES:
        return _t2_header(role, protocol)
    dataset = Dataset()
    types = ADC_IMAGE_TYPES if role == "adc" else TRACE_IMAGE_TYPES  # computed images pass for acquired ones
    dataset.ImageType = types[protocol.manufacturer]
    dataset.ScanningSequence = "EP"
    dataset.SequenceVariant = ["SK", "SP"]
    dataset.ScanOptions = ["PFP", "FS"]
    dataset.RepetitionTime, dataset.EchoTime = "3900", f"{DIFFUSION_ECHO_TIME_MS:g}"
    dataset.EchoTrainLength = 1
    protocol_name = "ep2d_diff_tra"
    suffix = {"adc": "_ADC", "computed": "_CALC_BVAL"}.get(role, "")
    if role == "diffusion" and not protocol.one_series:
        suffix = f"_b{b_value_s_per_mm2:g}"
    dataset.ProtocolName = protocol_name
    dataset.SeriesDescription = protocol_name + suffix
    if protocol.manufacturer == "SIEMENS":
        named = f"b{b_value_s_per_mm2:g}t" if role == "diffusion" else _range_name(acquired_s_per_mm2)
        dataset.SequenceName = f"*ep_{named}"
    return dataset


def _range_name(b_values_s_per_mm2: tuple[float, ...]) -> str:
    return f"b{b_values_s_per_mm2[0]:g}_{b_values_s_per_mm2[-1]:g}"


def _t2_header(role: str, protocol: Protocol) -> Dataset:
    name, sequence, repetition_time_ms, echo_time_ms = T2_NAMES[role]
    dataset = Dataset()
    dataset.ImageType = T2_IMAGE_TYPES[protocol.manufacturer]
    dataset.ScanningSequence = "SE"
    dataset.SequenceVariant = ["SK", "SP"]
    dataset.ScanOptions = "PFP"
    dataset.RepetitionTime, dataset.EchoTime = str(repetition_time_ms), f"{echo_time_ms:g}"
    dataset.EchoTrainLength = 25
    dataset.ProtocolName = dataset.SeriesDescription = name
    if protocol.manufacturer == "SIEMENS":
        dataset.SequenceName = sequence
    return dataset


def b_value_header(protocol: Protocol, b_value_s_per_mm2: float) -> Dataset:
    """Write a b-value in the form of the protocol.

    Args:
        protocol: whose manner of writing.
        b_value_s_per_mm2: the b-value, >= 0.

    Returns:
        The elements; none for the form "sequence name".

    Reference:
        DICOM PS3.3 C.8.13.5.9 for the standard element; the vendors' conformance statements for theirs.

    >>> b_value_header(Protocol("SIEMENS", "standard", True), 600.0).DiffusionBValue
    600.0
    """
    dataset = Dataset()
    whole = round(b_value_s_per_mm2)
    match protocol.b_value_form:
        case "standard":
            dataset.DiffusionBValue = float(b_value_s_per_mm2)
        case "siemens":
            _add_private(dataset, protocol, 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", str(whole))
        case "siemens bytes":
            _add_private(dataset, protocol, 0x0019, "SIEMENS MR HEADER", 0x0C, "OB", _even(f"{whole}".encode()))
        case "ge":
            _add_private(dataset, protocol, 0x0043, "GEMS_PARM_01", 0x39, "IS", [str(whole), "8", "0", "0"])
        case "ge biased":
            _add_private(
                dataset, protocol, 0x0043, "GEMS_PARM_01", 0x39, "IS", [str(1_000_000_000 + whole), "8", "0", "0"]
            )
        case "ge bytes":
            raw = _even(f"{1_000_000_000 + whole}\\8\\0\\0".encode())
            _add_private(dataset, protocol, 0x0043, "GEMS_PARM_01", 0x39, "UN", raw)
        case "philips":
            _add_private(dataset, protocol, 0x2001, "Philips Imaging DD 001", 0x03, "FL", float(b_value_s_per_mm2))
        case "philips bytes":
            raw = np.array(b_value_s_per_mm2, dtype="<f4").tobytes()
            _add_private(dataset, protocol, 0x2001, "Philips Imaging DD 001", 0x03, "UN", raw)
    return dataset


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def _add_private(
    dataset: Dataset, protocol: Protocol, group: int, creator: str, element: int, vr: str, value: object
) -> None:
    """Add a private element; with block 0x11 another creator holds block 0x10, as other software's does."""
    if protocol.private_block == 0x11:
        dataset.private_block(group, "PROSTATE_ALM OTHER", create=True)
    dataset.private_block(group, creator, create=True).add_new(element, vr, value)
