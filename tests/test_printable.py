"""No text of a stranger steers a terminal."""

import unicodedata

from prostate_alm.progress import printable


def test_no_control_character_of_unicode_is_left_but_lines_and_tabs() -> None:
    steering = [chr(number) for number in range(0x11000) if unicodedata.category(chr(number)) in ("Cc", "Cf", "Cs")]
    assert len(steering) > 200
    for one in steering:
        assert (one in printable(f"a{one}b")) == (one in "\n\t")


def test_letters_of_any_script_stay() -> None:
    text = "Prostata ß Θ простата 前立腺 – ≥"
    assert printable(text) == text
