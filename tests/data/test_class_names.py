import keras
import numpy as np
import pytest

from convnext_keras import decode_predictions
from convnext_keras.data.class_names import LABEL_SETS, PUBLISHED_LABEL_SETS, load_class_names

pytestmark = pytest.mark.any_backend

COUNTS = {"imagenet-1k": 1000, "imagenet-12k": 11821, "imagenet-22k": 21841, "digits": 10, "shapes": 4}
# From the list that every ImageNet classifier uses (index, WordNet identifier, name).
KNOWN = [
    (0, "n01440764", "tench"),
    (1, "n01443537", "goldfish"),
    (281, "n02123045", "tabby"),
    (999, "n15075141", "toilet_tissue"),
]


@pytest.mark.parametrize("labels", LABEL_SETS)
def test_sets_are_complete_and_unique(labels):
    names = load_class_names(labels)
    assert len(names) == COUNTS[labels]
    assert len({identifier for identifier, _ in names}) == len(names)
    assert all(name and " " not in name for _, name in names)


@pytest.mark.parametrize(("number", "identifier", "name"), KNOWN)
def test_known_classes(number, identifier, name):
    assert load_class_names("imagenet-1k")[number] == (identifier, name)


def test_larger_sets_hold_the_smaller_in_wordnets_order():
    for labels in ("imagenet-1k", "imagenet-12k"):
        identifiers = [identifier for identifier, _ in load_class_names(labels)]
        assert identifiers == sorted(identifiers)
    assert {row for row, _ in load_class_names("imagenet-12k")} <= {row for row, _ in load_class_names("imagenet-22k")}


def test_decode_predictions():
    scores = np.zeros((2, 1000), "float32")
    scores[0, [1, 281]] = 0.3, 0.7
    scores[1, 999] = 1
    first, second = decode_predictions(keras.ops.convert_to_tensor(scores), top=2)
    assert first == [("n02123045", "tabby", pytest.approx(0.7)), ("n01443537", "goldfish", pytest.approx(0.3))]
    assert second[0] == ("n15075141", "toilet_tissue", 1.0)
    assert len(decode_predictions(scores)[0]) == 5


@pytest.mark.parametrize("labels", PUBLISHED_LABEL_SETS)
def test_label_set_follows_from_the_number_of_classes(labels):
    scores = np.eye(COUNTS[labels], dtype="float32")[-1:]
    assert decode_predictions(scores, top=1)[0][0][:2] == load_class_names(labels)[-1]


def test_load_class_names_rejects_invalid_arguments():
    with pytest.raises(ValueError, match="1000 or 11821 or 21841 columns.*7"):
        decode_predictions(np.zeros((1, 7)))
    with pytest.raises(ValueError, match="shape.*classes"):
        decode_predictions(np.zeros(1000))
    with pytest.raises(ValueError, match="top must be 1 or more"):
        decode_predictions(np.zeros((1, 1000)), top=0)
    with pytest.raises(ValueError, match="1000 columns"):
        decode_predictions(np.zeros((1, 10)), class_names="imagenet-1k")
    with pytest.raises(ValueError, match="label_set must be one of"):
        load_class_names("cifar")
