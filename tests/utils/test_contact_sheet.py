"""Class names on contact sheets: no letter is a box."""

from __future__ import annotations

import numpy as np
import pytest

from ddbench.utils.contact_sheet import choose_font, draw_sheet, lacking


@pytest.mark.parametrize("name", ["forest", "caf\u00e9", "\u043b\u0435\u0441", "\u03b4\u03ac\u03c3", "a \u2192 b"])
def test_letters_of_alphabets_are_drawn(name):
    text, font = choose_font(name)
    assert text == name
    assert not lacking(text, font)


def test_characters_that_no_font_has_are_written_as_numbers():
    text, font = choose_font("sea \U00010330")  # a Gothic letter
    assert not lacking(text, font)
    assert text in ("sea U+10330", "sea \U00010330")


def test_signs_that_join_letters_are_no_boxes_either():
    for name in ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e19\u0e49\u0e33", "\u09ac\u09be"):  # Hindi, Thai, Bengali
        text, font = choose_font(name)
        assert text == name or text.isascii()
        assert not lacking(text, font)


def test_names_of_two_alphabets_look_different():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    sheets = [
        draw_sheet(images, np.array([0, 1]), names)
        for names in (("\u043b\u0435\u0441", "b"), ("\u043c\u043e\u0440", "b"))
    ]
    assert np.asarray(sheets[0]).tobytes() != np.asarray(sheets[1]).tobytes()
