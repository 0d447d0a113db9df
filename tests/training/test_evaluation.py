"""Figures of an evaluation against scikit-learn's, and classes found by their names."""

import tracemalloc

import digit_images
import keras
import numpy as np
import pytest
from backends import needs_training
from sklearn import metrics

from convnext_keras import create_model, training
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.training import Evaluation, charts
from convnext_keras.training.linear_probe import extract_features, fit_logistic_regression

DIGITS = "convnext_mini.digits"


def random_result(seed=0, count=200, classes=6):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Evaluation(scores, random.integers(0, classes, count), tuple("abcdef"))


@pytest.mark.any_backend
def test_metrics_equal_scikit_learn():
    result = random_result()
    taken = result.scores.argmax(axis=1)
    assert result.accuracy() == pytest.approx(metrics.accuracy_score(result.labels, taken))
    for top in (2, 5):
        assert result.accuracy(top) == pytest.approx(metrics.top_k_accuracy_score(result.labels, result.scores, k=top))
    assert result.loss == pytest.approx(metrics.log_loss(result.labels, result.scores))
    np.testing.assert_array_equal(result.confusion_matrix, metrics.confusion_matrix(result.labels, taken))
    assert result.mean_class_accuracy == pytest.approx(metrics.balanced_accuracy_score(result.labels, taken))


@pytest.mark.any_backend
def test_calibration_error_is_its_definition():
    """A model that says 80 % and is right in 60 % is 20 points off."""
    scores = np.tile([0.8, 0.2], (10, 1))
    result = Evaluation(scores, np.array([0] * 6 + [1] * 4), ("a", "b"))
    assert result.expected_calibration_error == pytest.approx(0.2)
    ((count, confidence, right),) = result.reliability_bins
    assert (count, right) == (10, pytest.approx(0.6))
    assert confidence == pytest.approx(0.8)


def digits(count=100):
    pixels, labels = digit_images.digits(count)
    return pixels, np.array(labels)


@pytest.mark.any_backend
def test_classes_are_found_by_identifier_and_by_name():
    pixels, labels = digits()
    some = np.isin(labels, (3, 7))
    for names in ({3: "3", 7: "7"}, {3: "three", 7: "seven"}):
        result = training.evaluate(DIGITS, (pixels[some], [names[label] for label in labels[some].tolist()]))
        assert result.accuracy() > 0.95
        assert result.scores.shape[1] == 10
        assert {name for name, part in result.class_accuracy.items() if part is not None} == {"three", "seven"}
    with pytest.raises(ValueError, match="does not know: eleven"):
        training.evaluate(DIGITS, (pixels[:2], ["three", "eleven"]))


@pytest.mark.any_backend
@needs_training
def test_evaluate_with_other_size_and_flip():
    pixels, labels = digits(40)
    plain = training.evaluate(DIGITS, (pixels, labels))
    large = training.evaluate(DIGITS, (pixels, labels), size=48)
    assert large.scores.shape == plain.scores.shape
    assert not np.allclose(large.scores, plain.scores)
    both = training.evaluate(DIGITS, (pixels, labels), flip=True)
    mirrored = training.evaluate(DIGITS, (pixels[:, :, ::-1], labels))
    np.testing.assert_allclose(both.scores, (plain.scores + mirrored.scores) / 2, atol=1e-5)


@pytest.mark.any_backend
def test_logits_become_probabilities():
    pixels, labels = digits(20)
    logits = training.evaluate(create_model(DIGITS, classifier_activation=None), (pixels, labels))
    plain = training.evaluate(DIGITS, (pixels, labels))
    np.testing.assert_allclose(logits.scores, plain.scores, atol=1e-5)
    np.testing.assert_allclose(logits.scores.sum(axis=1), 1, atol=1e-5)


@pytest.mark.any_backend
def test_evaluate_rejects_invalid_input():
    pixels, labels = digits(20)
    plain = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="has no transform"):
        training.evaluate(plain, (pixels, labels))
    with pytest.raises(ValueError, match="has 3 classes and does not know their names, the images have 10"):
        training.evaluate(plain, (pixels, labels), transform=ImageTransform(32))
    with pytest.raises(ValueError, match="A classifier has outputs"):
        training.evaluate(create_model(DIGITS, include_top=False), (pixels, labels))


@pytest.mark.any_backend
@needs_training
@pytest.mark.parametrize("classes", [2, 10])
def test_linear_probe_equals_scikit_learn(classes):
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pixels, labels = digits(400)
    chosen = labels < classes
    examples = training.load_dataset((pixels[chosen][::-1].copy(), labels[chosen][::-1]))
    kept, held_out = training.stratified_split(examples, 0.5)
    model = create_model(DIGITS)
    transform = model.pretrained_info.transform
    seen, unseen = (extract_features(model, part, transform) for part in (kept, held_out))
    kernel, bias = fit_logistic_regression(seen, kept.labels, classes)
    ours = np.mean((unseen @ kernel + bias).argmax(axis=1) == held_out.labels)
    options = {"max_iter": 1000, "l1_ratios": (0,), "use_legacy_attributes": False, "scoring": "accuracy"}
    judge = make_pipeline(StandardScaler(), LogisticRegressionCV(**options))
    theirs = np.mean(judge.fit(seen, kept.labels).predict(unseen) == held_out.labels)
    assert ours >= theirs - 0.01


def test_metrics_of_many_classes_need_linear_memory():
    count = 20_000  # whose confusion matrix would have 3.2 GB
    names, rng = tuple(map(str, range(count))), np.random.default_rng(0)
    labels = rng.integers(0, count, 20)
    scores = rng.uniform(size=(20, count)).astype("float32")
    scores[:10, labels[:10]] = 2 + np.arange(10, dtype="float32")
    result = training.Evaluation(scores, labels, names)
    tracemalloc.start()
    summary = result.summary()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * count
    assert summary["confusion_matrix"] is None
    with pytest.raises(ValueError, match="at most 2,000 classes. Received: 20,000"):
        charts.plot_confusion_matrix(result)
    assert 0 < summary["top1_accuracy"] <= summary["top5_accuracy"] <= 1
    predicted = scores.argmax(axis=1)
    for label in labels.tolist():
        own = labels == label
        assert summary["class_accuracy"][str(label)] == pytest.approx(np.mean(predicted[own] == label))


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_accuracy_counts_the_first_of_equal_scores_and_no_nan(top_k):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (200, 6)).astype("float32")
    scores[rng.uniform(size=scores.shape) < 0.1] = np.nan
    labels = rng.integers(0, 6, 200)
    best = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), axis=1, kind="stable")[:, :top_k]
    expected = np.mean((best == labels[:, None]).any(axis=1))
    assert training.Evaluation(scores, labels, tuple("abcdef")).accuracy(top_k) == pytest.approx(expected)
