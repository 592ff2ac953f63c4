"""What an image is: component, contrast, kind of diffusion image, and where its b-value is. See `golden_studies`."""

import struct

import pytest
from golden_studies import B_VALUES, Case, Cases, bent, own, rival, undirected, with_private

CASES = Cases()
case = CASES.case


# What an image is: component
_OTHER = {"roles": {9: "other"}}


@case("PS3.3 C.8.3.1.1.1: vendors add values to ImageType; Siemens' third is M, P, R or I", **_OTHER)
def _phase_image_of_siemens(b):
    return rival(b, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])


@case("Philips writes the component with the sequence", **_OTHER)
def _imaginary_image_of_philips(b):
    return rival(b, ImageType=["ORIGINAL", "PRIMARY", "I_SE", "I", "SE"])


@case("GE: (0043,xx2F) is 0 magnitude, 1 phase, 2 real, 3 imaginary", **_OTHER)
def _real_image_of_ge(b):
    return b.study() + with_private(
        b.series(9, ImageType=["ORIGINAL", "PRIMARY", "OTHER"]), 0x43, "GEMS_PARM_01", 0x2F, "SS", 2
    )


@case("PS3.3 C.8.13.3.1, Complex Image Component (0008,9208)", **_OTHER)
def _phase_image_in_an_enhanced_object(b):
    return [*b.study(), b.enhanced(b.series(9, ImageType=["ORIGINAL", "PRIMARY"]), ComplexImageComponent="PHASE")]


@case("magnitude and phase of a diffusion series under one Series Instance UID", has_plain_voxels=True)
def _phase_beside_magnitude_in_one_diffusion_series(b):
    phase = own(b, b.diffusion(3, ImageType=["ORIGINAL", "PRIMARY", "P", "DIFFUSION"]), "phase")
    return b.study() + phase


# What an image is: contrast
@case("PS3.3 C.8.3.1: Scanning Sequence IR is inversion recovery: STIR", **_OTHER)
def _stir_by_its_scanning_sequence(b):
    return rival(b, ScanningSequence=["SE", "IR"], InversionTime=180.0)


@case("PS3.3 C.8.3.1: an Inversion Time of 180 ms nulls fat, whatever the scanning sequence says", **_OTHER)
def _stir_by_its_inversion_time(b):
    return rival(b, InversionTime=180.0)


@case("PS3.3 C.8.13.3.1: Acquisition Contrast (0008,9209)", **_OTHER)
def _stir_of_an_enhanced_object(b):
    return [*b.study(), b.enhanced(b.series(9), AcquisitionContrast="STIR")]


@case("Siemens: turbo inversion recovery by its sequence name", **_OTHER)
def _stir_by_its_sequence_name(b):
    return rival(b, SequenceName="*tir2d1_15")


@case("a map of relaxation times is no image", roles={9: "adc"})
def _t2_map(b):
    return rival(b, SeriesDescription="T2 map")


@case("STIR alone is no T2", refused="no_t2", says="inversion recovery")
def _stir_alone(b):
    return b.series(2, ScanningSequence=["SE", "IR"]) + b.diffusion(3)


@case("Siemens: a value FAT in ImageType", **_OTHER)
def _fat_of_a_dixon(b):
    return rival(b, ImageType=["ORIGINAL", "PRIMARY", "DIXON", "FAT"])


@case("GE names the parts of a Dixon image before the description", **_OTHER)
def _fat_of_a_dixon_by_its_name(b):
    return rival(b, SeriesDescription="FAT: Ax T2 FLEX")


@case("PS3.3 C.8.13.5.5: water was suppressed, fat remains", **_OTHER)
def _fat_by_suppressed_water(b):
    return [*b.study(), b.enhanced(b.series(9), SpectrallySelectedSuppression="WATER")]


FAT_SUPPRESSED = {
    "Scan Options FS": {"ScanOptions": "FS"},
    "Scan Options of GE": {"ScanOptions": ["FAST_GEMS", "FATSAT_GEMS"]},
    "English": {"SeriesDescription": "Ax T2 fat sat"},
    "German": {"SeriesDescription": "t2_tse_tra_fettgesättigt", "SpecificCharacterSet": "ISO_IR 100"},
    "French": {"SeriesDescription": "AX T2 sat graisse"},
    "Italian": {"SeriesDescription": "T2 TSE sat grasso"},
    "Spanish": {"SeriesDescription": "T2 TSE supresion de grasa"},
    "Portuguese": {"SeriesDescription": "T2 sat gordura"},
    "Dutch": {"SeriesDescription": "T2 TSE vetonderdrukking"},
    "SPAIR": {"SeriesDescription": "T2W_SPAIR_ax"},
    "Dixon water": {"ImageType": ["ORIGINAL", "PRIMARY", "DIXON", "WATER"]},
}
for _name, _change in FAT_SUPPRESSED.items():
    CASES[f"fat suppressed: {_name}"] = Case(
        lambda b, change=_change: rival(b, **change), "plain T2 is what the model saw", roles={9: "t2_unused"}
    )


@case("without a plain one it is used, and told", warnings=("t2_contrast",))
def _fat_suppressed_alone(b):
    return b.series(2, ScanOptions="FS") + b.diffusion(3)


@case("a name may deny it", t2=9)
def _without_fat_saturation_by_its_name(b):
    return rival(b, SeriesDescription="t2_tse_tra_ohne FS")


# What an image is: derived, computed, direction
COMPUTED = ["DWI extrapolated b1400", "SynB 1400", "sDWI", "b1400 berechnet", "berekend b1400", "hBVal", "b calculée"]
MAPS = ["Carte CDA", "ADC-Karte", "Mapa de difusion", "Mappa diffusione", "Diffusionskoeffizient", "ADC kaart", "ADC"]
for _names, _role in ((COMPUTED, "computed_b"), (MAPS, "adc")):
    for _text in _names:
        CASES[f"{_role}: {_text}"] = Case(
            lambda b, text=_text: (
                b.study()
                + b.diffusion(
                    9,
                    b_values=(1400.0,),
                    ImageType=["DERIVED", "PRIMARY"],
                    SeriesDescription=text,
                    SpecificCharacterSet="ISO_IR 100",
                )
            ),
            "names of workstations; ImageType DERIVED says nothing more",
            roles={9: _role},
        )


@case("PS3.3 C.7.6.1.1.2: SECONDARY was made from other images, which are in the fit already", roles={9: "dwi_unused"})
def _derived_b_value_without_a_telling_name(b):
    return b.study() + b.diffusion(9, b_values=(1400.0,), ImageType=["DERIVED", "SECONDARY"])


@case("ORIGINAL with a b-value was acquired, whatever it is called", has_plain_voxels=True)
def _diffusion_named_with_its_map(b):
    return b.series(2) + b.diffusion(3, SeriesDescription="Ax DWI/ADC")


@case("the protocol is called after its map; traces begin with the protocol's name", has_plain_voxels=True)
def _protocol_named_with_calc(b):
    name = "DWI_calc"
    return b.series(2) + b.diffusion(3, ProtocolName=name, SeriesDescription=f"{name}_TRACEW")


@case("PS3.3 C.8.13.5.9: a unit vector in (0018,9089) is a direction", refused="no_diffusion")
def _one_direction_by_its_vector(b):
    return b.series(2) + b.diffusion(3, DiffusionGradientOrientation=[0.0, 0.0, 1.0])


@case("PS3.3 C.8.13.5.9: the vector lies in the item of (0018,9076)", refused="no_diffusion")
def _one_direction_by_its_nested_vector(b):
    item = b.item(DiffusionGradientOrientation=[0.0, 1.0, 0.0])
    return b.series(2) + undirected(b, DiffusionGradientDirectionSequence=[item])


@case("Siemens: (0019,xx0E) is the gradient's unit vector", refused="no_diffusion")
def _one_direction_by_the_vector_of_siemens(b):
    return b.series(2) + with_private(undirected(b), 0x19, "SIEMENS MR HEADER", 0x0E, "FD", [0.0, 0.6, 0.8])


@case("the same where de-identification left bytes", refused="no_diffusion")
def _one_direction_by_the_bytes_of_siemens(b):
    return b.series(2) + with_private(
        undirected(b), 0x19, "SIEMENS MR HEADER", 0x0E, "UN", struct.pack("<3d", 0.0, 0.6, 0.8)
    )


@case("Philips: (2005,xxB0) to B2 are the gradient's unit vector", refused="no_diffusion")
def _one_direction_by_the_vector_of_philips(b):
    images = undirected(b)
    for element, value in ((0xB0, 1.0), (0xB1, 0.0), (0xB2, 0.0)):
        with_private(images, 0x2005, "Philips MR Imaging DD 001", element, "FL", value)
    return b.series(2) + images


@case("GE: (0019,xxBB) to BD are the gradient's unit vector", refused="no_diffusion")
def _one_direction_by_the_vector_of_ge(b):
    images = undirected(b)
    for element, value in ((0xBB, "0"), (0xBC, "1"), (0xBD, "0")):
        with_private(images, 0x19, "GEMS_ACQU_01", element, "DS", value)
    return b.series(2) + images


@case("a vector of zeros is that of an isotropic image", has_plain_voxels=True)
def _no_direction_by_the_vector_of_uih(b):
    return b.series(2) + with_private(undirected(b), 0x65, "Image Private Header", 0x37, "FD", [0.0, 0.0, 0.0])


@case("GE: (0021,xx5A) 4 is right to left", refused="no_diffusion")
def _one_direction_of_ge(b):
    return b.series(2) + with_private(b.diffusion(3), 0x21, "GEMS_RELA_01", 0x5A, "SL", 4)


@case("GE: (0043,xx30) 15 is the combined image, 3 to 5 are directions", has_plain_voxels=True)
def _combined_and_directions_of_ge(b):
    combined = with_private(b.study(), 0x43, "GEMS_PARM_01", 0x30, "SS", 15)
    single = [own(b, b.diffusion(3, b_values=B_VALUES[1:]), str(flag)) for flag in (3, 4, 5)]
    flagged = (
        with_private(images, 0x43, "GEMS_PARM_01", 0x30, "SS", n) for n, images in zip((3, 4, 5), single, strict=True)
    )
    return combined + [image for images in flagged for image in images]


@case("b = 0 has no direction, however it is labelled", dwi={3: (0.0, 800.0)})
def _b_zero_labelled_as_a_direction(b):
    dwi = b.diffusion(3, b_values=(0.0, 800.0))
    bent(dwi[:6], DiffusionDirectionality="DIRECTIONAL")
    return b.series(2) + dwi


@case("GE writes b 0 into gradient-echo time series", roles={9: "dynamic"})
def _perfusion(b):
    return b.study() + b.diffusion(9, b_values=(0.0,) * 4, ScanningSequence=["EP", "GR"], EchoTime=30.0)


@case("3D spin echoes have nominal echo times beyond 250 ms", has_plain_voxels=True)
def _t2_3d_of_a_long_echo_time(b):
    return b.series(2, EchoTime=320.0, MRAcquisitionType="3D") + b.diffusion(3)


@case("the reason leads to the limit", refused="no_t2", says="t2_echo_time_ms")
def _t2_of_a_long_echo_time(b):
    return b.series(2, EchoTime=320.0) + b.diffusion(3)


@case("a turbo spin echo is T2, whatever it was planned for", has_plain_voxels=True)
def _t2_named_for_diffusion(b):
    return b.series(2, SeriesDescription="t2_tse_tra_nach_Diff") + b.diffusion(3)


# Where the b-value is
@case("Hitachi: (0029,xx30) of MMCPrivate", has_plain_voxels=True)
def _b_value_of_hitachi(b):
    dwi = b.diffusion(3)
    for image in dwi:
        value = image.DiffusionBValue
        del image.DiffusionBValue
        with_private([image], 0x29, "MMCPrivate", 0x30, "FD", value)
    return b.series(2) + dwi


@case("Toshiba leaves the element out at b = 0", dwi={3: (0.0, 800.0)})
def _b_zero_of_toshiba(b):
    dwi = bent(b.diffusion(3, b_values=(0.0, 800.0)), Manufacturer="TOSHIBA_MEC")
    for image in dwi[:6]:
        del image.DiffusionBValue
    return b.series(2) + dwi


@case("others do not: an image without a b-value is not b = 0", refused="one_b_value")
def _b_zero_of_nobody(b):
    dwi = b.diffusion(3, b_values=(0.0, 800.0))
    for image in dwi[:6]:
        del image.DiffusionBValue
    return b.series(2) + dwi


@case("the place of the b-values can be named", refused="no_diffusion", says="--rules", dwi={})
def _b_value_in_the_description_only(b):
    return b.series(2) + b.diffusion(3, b_values=(None,), SeriesDescription="DWI b=800")


@pytest.mark.parametrize("name", CASES)
def test_the_golden_table(build, written, plain_voxels, name):
    CASES[name].require(written(CASES[name].images(build)), plain_voxels)
