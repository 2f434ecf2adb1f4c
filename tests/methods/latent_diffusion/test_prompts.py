"""The aggregation rule on a corpus made by hand."""

from __future__ import annotations

import pytest

from ddbench.methods.latent_diffusion.prompts import TOP_WORDS, common_words, representative_captions, words

CORPUS = [
    "A harbor with white boats",
    "The harbor has white boats and a long pier",
    "A harbor of gray water",
    "gray water, a crane, and gray walls in the harbor",
    "The harbor at the shore: gray crane",
]


def test_the_caption_with_the_most_frequent_words_stands_for_its_cluster():
    """Cluster 0: white 2, boats 2, long 1, pier 1 -> 4 against 6. Cluster 1: gray 4, water 2, crane 2, ... by hand."""
    assert representative_captions(CORPUS, [0, 0, 1, 1, 1], "harbor") == [1, 3]


def test_common_and_class_words_and_stop_words_weigh_nothing():
    """ "harbor" is in every caption, "the" is a stop word: only "red" tells the images apart."""
    captions = ["the the the harbor harbor", "harbor red", "harbor"]
    assert common_words(captions) == {"harbor"}
    assert representative_captions(captions, [0, 0, 0], "pier") == [1]
    assert representative_captions(["pier pier pier", "red", "blue blue"], [0, 0, 0], "pier") == [2]


def test_seven_of_ten_captions_are_common():
    captions = ["lake"] * 7 + ["hill"] * 3
    assert common_words(captions) == {"lake"}
    assert common_words(["lake"] * 6 + ["hill"] * 4) == set()


def test_a_word_weighs_inside_longer_ones():
    """VLCP's rule looks for the letters: "scarce shed" has car (3), scarce and shed, and wins over a plain "car"."""
    assert representative_captions(["car", "car", "car", "scarce shed", *["tree"] * 4], [0] * 4 + [1] * 4, "x") == [
        3,
        4,
    ]


def test_of_equals_the_first():
    assert representative_captions(["", "", ""], [1, 0, 1], "pond") == [1, 0]


def test_only_the_thirty_most_frequent_words_weigh():
    """Thirty words three times each push out thirty others that are said twice."""
    frequent, rare = ([f"{kind}{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(TOP_WORDS)] for kind in "xy")
    captions = [" ".join(rare)] * 2 + [frequent[0], *[" ".join(frequent[i::2]) for i in (0, 1)] * 3]
    apart = [f"q{chr(97 + i)}" for i in range(20)]  # of another cluster, so that no word is in 70 %
    chosen = representative_captions([*captions, *apart], [0] * len(captions) + [1] * len(apart), "pond")
    assert chosen[0] == 3


@pytest.mark.parametrize(("text", "found"), [("Two-lane road, 3 cars!", ["two", "lane", "road", "cars"]), ("", [])])
def test_words_are_letters(text, found):
    assert words(text) == found


def test_a_cluster_without_a_member_is_said_by_the_class():
    """Images that are in a class twice leave k-means fewer clusters than asked."""
    assert representative_captions(["a boat", "a boat", "a ship"], [0, 0, 0], "harbor", 3) == [0, 0, 0]


def test_of_equally_frequent_words_the_first_thirty_weigh():
    """Thirty-one words, once each: the last to come weighs nothing, whatever its place in the alphabet."""
    captions = [" ".join(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(TOP_WORDS)), "aaa aaab", "zzz"]
    assert representative_captions([captions[1], captions[2]], [0, 0], "x") == [0]
    many = [captions[0], "aaa"]
    assert representative_captions([*many, "aaa"], [0, 0, 1], "x") == [0, 2]


def test_capitals_are_small_letters():
    """Ours: "Red Red" has red as "red" has it, and comes first; the release tells them apart."""
    assert representative_captions(["blue", "Red Red", "red"], [0, 0, 0], "x") == [1]


def test_a_word_inside_the_name_weighs_nothing():
    """ "port" is inside "airport runway": only "red" weighs."""
    assert representative_captions(["port port", "red", "blue blue"], [0, 0, 0], "airport runway") == [2]
