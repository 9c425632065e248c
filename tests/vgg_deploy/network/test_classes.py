"""The class that a folder's name means."""

from __future__ import annotations

import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.network.classes import (
    ClassName,
    class_of_folder,
    first_other_class,
    numbered_classes,
)

BY_WORDNET = (
    ClassName("n01440764", "tench"),
    ClassName("n02102040", "English springer"),
    ClassName("n03394916", "French horn"),
)
BY_WORD = tuple(ClassName(name.label, name.label) for name in BY_WORDNET)
BY_BOTH = tuple(ClassName(f"{name.id}_{name.label.replace(' ', '_')}", name.label) for name in BY_WORDNET)


def test_numbered_classes_are_known_by_their_position() -> None:
    assert numbered_classes(2) == (ClassName("0", "0"), ClassName("1", "1"))


@pytest.mark.parametrize("classes", [BY_WORDNET, BY_WORD, BY_BOTH], ids=["ids", "words", "both"])
@pytest.mark.parametrize(
    "folder", ["n03394916_French_horn", "French horn", "French_horn", "french_HORN", "N03394916_french_horn"]
)
def test_a_folder_is_matched_by_wordnet_id_word_or_both(classes: tuple[ClassName, ...], folder: str) -> None:
    assert class_of_folder(folder, classes) == 2


@pytest.mark.parametrize("classes", [BY_WORDNET, BY_BOTH], ids=["ids", "both"])
def test_a_wordnet_id_alone_is_enough_if_the_network_knows_ids(classes: tuple[ClassName, ...]) -> None:
    assert class_of_folder("n03394916", classes) == 2


def test_a_digits_folder_is_the_class_of_that_number() -> None:
    assert [class_of_folder(str(digit), numbered_classes(12)) for digit in (0, 1, 11)] == [0, 1, 11]


@pytest.mark.parametrize("folder", ["n02012849_crane", "n02012849"])
@pytest.mark.parametrize("by_both", [False, True])
def test_a_wordnet_id_decides_between_classes_of_one_word(folder: str, by_both: bool) -> None:
    classes = [ClassName(f"{number}_crane" if by_both else number, "crane") for number in ("n03126707", "n02012849")]
    assert class_of_folder(folder, classes) == 1


def test_a_word_of_several_classes_is_refused_with_their_ids() -> None:
    with pytest.raises(UsageError, match=r"'crane' matches several classes: n02012849, n03126707"):
        class_of_folder("crane", [ClassName("n02012849", "crane"), ClassName("n03126707", "crane")])


def test_an_unknown_folder_is_refused_with_the_nearest_classes() -> None:
    with pytest.raises(UsageError, match=r"'French_hron' is not a class of this network; the nearest are French horn,"):
        class_of_folder("French_hron", BY_WORDNET)


@pytest.mark.parametrize("folder", ["TENCH.", "n01440765_Tenches"])
def test_the_nearest_are_found_in_parts_of_the_name_in_any_case(folder: str) -> None:
    for classes in (BY_WORDNET, BY_WORD, BY_BOTH):
        with pytest.raises(UsageError, match=rf"'{folder}' is not a class .* the nearest are (tench|n01440764)"):
            class_of_folder(folder, classes)


def test_a_folder_with_another_wordnet_id_does_not_match_by_its_word() -> None:
    # ImageNet-21k has the bird in one folder and the machine in another; a network may know one of them.
    for machine in (ClassName("n03126707", "crane"), ClassName("n03126707_crane", "crane")):
        with pytest.raises(
            UsageError, match=r"'n02012849_crane' is not a class of this network; the nearest are .*n03126707"
        ):
            class_of_folder("n02012849_crane", [BY_WORDNET[0], machine])
        assert class_of_folder("crane", [BY_WORDNET[0], machine]) == 1
    assert class_of_folder("n02012849_crane", [BY_WORD[0], ClassName("crane", "crane")]) == 1


def test_part_of_a_word_does_not_match() -> None:
    with pytest.raises(UsageError, match="'horn' is not a class"):
        class_of_folder("horn", BY_WORDNET)


def test_networks_have_the_same_classes_if_ids_or_words_agree_in_order() -> None:
    for other in (BY_WORDNET, BY_WORD, BY_BOTH):
        assert first_other_class(BY_WORDNET, other) is None
    assert first_other_class(BY_WORDNET, BY_WORD[::-1]) == 0
    assert first_other_class(BY_WORDNET, BY_WORDNET[:2]) == 2
    assert first_other_class(BY_WORDNET[:1], BY_WORDNET) == 1
    assert first_other_class(BY_WORDNET, (*BY_BOTH[:2], ClassName("n02012849", "crane"))) == 2


def test_two_classes_with_the_same_word_are_distinguished_by_their_ids() -> None:
    bird, machine = ClassName("n02012849", "crane"), ClassName("n03126707", "crane")
    assert first_other_class((bird, machine), (machine, bird)) == 0
    assert first_other_class((bird, machine), (ClassName("n02012849_crane", "crane"), machine)) is None
