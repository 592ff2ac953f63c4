"""What series are called in seven languages, and what that means where nothing better speaks. Truth: the words."""

import pytest

from prostate_alm.imaging.header import Header
from prostate_alm.imaging.kinds import contrast_of, image_kind
from prostate_alm.imaging.rulebook import default_rules

FAT_SUPPRESSED = """
t2_tse_tra_fs|AX T2 FATSAT|T2W_SPAIR_TRA|Ax T2 FRFSE FS|T2 tra SPIR|T2 BLADE tra fs|T2 fat suppressed|T2 ax Fat-Sat
T2 FSat ax|T2 ax chem sat|T2 ax chem. sat|T2_FS_AX|T2 ax F/S|T2_tra_PROSET|T2 ASPIR|T2 ax WE|T2 SPECIAL tra
T2 ax fettgesättigt|T2 ax Fettsättigung|T2 ax fettunterdrückt|T2 ax Fettsaettigung|T2 ax saturation de graisse
T2 ax sat graisse|T2 ax soppressione grasso|T2 ax saturacion grasa|T2 ax satur. grasa|T2 ax supressão de gordura
T2 ax sat gordura|T2 vetsuppressie|AX T2 IDEAL Water|WATER: Ax T2 FLEX|t2_tse_dixon_tra_W
"""
PLAIN = """
t2_tse_tra_320_p2|AX T2 no fat sat|T2 tra nofs|T2 ax ohne Fettsättigung|T2W_TSE_tra|T2 ax FSE|Ax T2 FRFSE
T2 tra sans saturation|T2 TSE FSE HR|T2 tra prostata|T2 AX w/o FS|T2 sin grasa|T2 fast spin|T2 axial fs off
T2_SPC_RST_AXIAL
"""
INVERTED = "T2_TSE_TRA_STIR|AX STIR|T2 TIRM tra|T2 STIR_tra|FLAIR ax"
MAPS = """
ADC (10^-6 mm²/s)|dADC|Apparent Diffusion Coefficient (mm2/s)|ADC_BH|Reg - DWI b50-1000_ADC|ep2d_diff_ADC_DFC_MIX
isoADC|eADC|ADCmap|FA map|ep2d_diff_FA|Coeff. de diffusion apparent|ADC-Karte|Mappa ADC|mapa CDA|ADC kaart|IVIM D
kurtosis K|perfusion fraction f
"""
COMPUTED = """
ep2d_diff_b1400_calc|ep2d_diff_CALC_BVAL|cDWI_1400|synthetic DWI b1400|sDWI b1400|DWI computed b1400
DWI b=1400 berechnet|DWI b1400 calculée|b1400 calcolato|b1400 calculado|b1400 berekend|SynDWI|extrapolated b1400
DWI b1400 simulated|virtual b1400|DWI b 1400 (comp)|hb1400_cal
"""
ACQUIRED = """
ep2d_diff_b1400|DWI b 1400 TRACEW|RESOLVE b800|DWI_EPI tra|ep2d_diff_tra_spair_std|DWI comparison|FOCUS b1400
eDWI b1400
"""


def _each(names: str) -> list[str]:
    return [name for line in names.strip().splitlines() for name in line.split("|")]


def _contrast(name: str) -> str:
    return contrast_of(Header(()), (), name, default_rules())


def _kind(name: str) -> str:
    told = {"sequence_name": "", "directionality": "", "rules": default_rules()}
    return image_kind(("DERIVED", "PRIMARY", "OTHER"), name, is_diffusion_weighted=True, **told)


@pytest.mark.parametrize("name", _each(FAT_SUPPRESSED))
def test_fat_is_suppressed(name):
    assert _contrast(name) == "fat_suppressed"


@pytest.mark.parametrize("name", _each(PLAIN))
def test_fat_is_not_suppressed(name):
    assert _contrast(name) == "plain"


@pytest.mark.parametrize("name", _each(INVERTED))
def test_the_signal_was_inverted(name):
    assert _contrast(name) == "inversion"


@pytest.mark.parametrize("name", _each(MAPS))
def test_a_map_is_no_acquired_image(name):
    assert _kind(name) == "adc"


@pytest.mark.parametrize("name", _each(COMPUTED))
def test_a_computed_image_is_no_acquired_one(name):
    assert _kind(name) in ("computed", "adc")


@pytest.mark.parametrize("name", _each(ACQUIRED))
def test_what_was_acquired_stays_so(name):
    assert _kind(name) == "trace"
