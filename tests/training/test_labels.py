"""Labels of every kind: parsing, splits, folds, losses, metrics."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from backends import needs_training, to_numpy
from PIL import Image
from sklearn import metrics as sklearn_metrics

from convnext_keras import training
from convnext_keras.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL, select_labels, to_scores
from convnext_keras.training.batching import class_weights, training_batches
from convnext_keras.training.labels import encode_labels
from convnext_keras.training.losses import LOSSES, build_loss
from convnext_keras.training.multi_label import average_precision, choose_thresholds
from convnext_keras.training.splits import strata

pytestmark = pytest.mark.any_backend
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 9, 9, 3), "uint8")
TAGS = [["sky"], ["sky", "sea"], [], ["cat"], ["cat", "sky"], ["sea"]] * 2


@pytest.mark.parametrize(
    ("labels", "problem_type", "names", "expected"),
    [
        ([0, 1, 1], SINGLE_LABEL, ("0", "1"), [0, 1, 1]),
        (["dog", "cat"], SINGLE_LABEL, ("cat", "dog"), [1, 0]),
        ([np.array([0, 1]), np.array([1, 0])], SINGLE_LABEL, ("0", "1"), [1, 0]),
        ([[0.25, 0.75], [1.0, 0.0]], SINGLE_LABEL, ("0", "1"), [[0.25, 0.75], [1, 0]]),
        ([[1, 1], [0, 1]], MULTI_LABEL, ("0", "1"), [[1, 1], [0, 1]]),
        ([{"b", "a"}, set()], MULTI_LABEL, ("a", "b"), [[1, 1], [0, 0]]),
        ([("b",), ("a", "b")], MULTI_LABEL, ("a", "b"), [[0, 1], [1, 1]]),
        ([[2], [0, 1]], MULTI_LABEL, ("0", "1", "2"), [[0, 0, 1], [1, 1, 0]]),
    ],
    ids=["indices", "names", "one_hot", "soft", "matrix", "sets", "tuples", "index_lists"],
)
def test_encode_labels_detects_the_problem_type(labels, problem_type, names, expected):
    encoded = encode_labels(labels)
    assert (encoded.problem_type, encoded.class_names, encoded.labels.tolist()) == (problem_type, names, expected)


def test_encode_labels_follows_the_given_problem_type():
    assert encode_labels(["a", "b"], problem_type=MULTI_LABEL).labels.tolist() == [[1, 0], [0, 1]]
    assert encode_labels([[1, 0], [0, 1]], problem_type=MULTI_LABEL).problem_type == MULTI_LABEL
    values = encode_labels([1.5, -2], problem_type=REGRESSION)
    assert (values.class_names, values.labels.tolist()) == (("value",), [[1.5], [-2]])
    assert encode_labels([[1, 2], [3, 4]], ["width", "height"], REGRESSION).class_names == ("width", "height")


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0.5, 1.0], {}, "problem_type='regression'"),
        ([1.0, float("nan")], {"problem_type": REGRESSION}, "finite numbers. Received: nan for image 1"),
        ([[1.0], [1.0, 2.0]], {"problem_type": REGRESSION}, "same number of values"),
        ([["a"], ["b"]], {"problem_type": SINGLE_LABEL}, "one label per image"),
        ([["a"], ["eel"]], {"class_names": ["a", "b"]}, "Missing: eel"),
        ([[0.5, 0.2], [1, 0]], {}, "sum to 1"),
        ([[2, 0], [0, 1]], {"class_names": ["a", "b"]}, "values 0 to 1"),
        (["a"], {"problem_type": "tagging"}, "problem_type must be"),
    ],
)
def test_encode_labels_rejects_labels_that_do_not_fit(labels, options, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(labels, **options)


@pytest.fixture
def tables(tmp_path):
    """A table with several kinds of labels, as .csv, .tsv, pandas and polars."""
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    headings = ["image_id", "tags", "sky", "sea", "age", "weight", "patient", "fold"]
    rows = [
        [f"{n}.png", "|".join(TAGS[n]), int("sky" in TAGS[n]), int("sea" in TAGS[n]), n / 2, 1 + n % 2, n // 3, fold]
        for n, fold in enumerate(["train"] * 9 + ["val"] * 3)
    ]
    for name, delimiter in (("table.csv", ","), ("table.tsv", "\t")):
        lines = [delimiter.join(map(str, row)) for row in [headings, *rows]]
        (tmp_path / name).write_text("\n".join(lines))
    return tmp_path, headings, rows


@pytest.mark.parametrize("kind", ["table.csv", "table.tsv", "pandas", "polars"])
def test_load_dataset_reads_columns_of_tables_and_data_frames(tables, kind):
    folder, headings, rows = tables
    data = folder / kind
    if kind in ("pandas", "polars"):
        library = pytest.importorskip(kind)
        columns = {name: [row[index] for row in rows] for index, name in enumerate(headings)}
        columns["image_id"] = [str(folder / name) for name in columns["image_id"]]
        data = library.DataFrame(columns)
    options = {"image_column": "image_id", "split_column": "fold", "group_column": "Patient"}
    tags = training.load_dataset(data, label_column="tags", separator="|", **options)
    assert (tags.problem_type, tags.class_names) == (MULTI_LABEL, ("cat", "sea", "sky"))
    assert tags.class_counts == {"cat": 4, "sea": 4, "sky": 6}
    assert [tags.label_text(index) for index in range(3)] == ["sky", "sea|sky", ""]
    assert tags.sample_weights.tolist() == [1, 2] * 6
    assert len({*tags.groups}) == 4
    kept, held_out = training.train_val_split(data, label_column="tags", separator="|", **options)
    assert (len(kept), len(held_out)) == (9, 3)
    columns = training.load_dataset(data, label_column=["sky", "sea"], **options)
    assert (columns.problem_type, columns.class_names) == (MULTI_LABEL, ("sky", "sea"))
    ages = training.load_dataset(data, label_column="age", problem_type=REGRESSION, **options)
    assert (ages.problem_type, ages.labels[:3].ravel().tolist()) == (REGRESSION, [0, 0.5, 1])
    with pytest.raises(ValueError, match=r"must have a column 'tag'.*Did you mean 'tags'"):
        training.load_dataset(data, label_column="tag", **options)


def test_load_dataset_reads_two_levels_of_directories(tmp_path):
    for name in ("animals/cat", "animals/dog", "plants/oak"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(PIXELS[0]).save(tmp_path / name / "1.png")
    assert training.load_dataset(tmp_path).class_names == ("animals", "plants")
    deep = training.load_dataset(tmp_path, label_depth=2)
    assert deep.class_counts == {"animals/cat": 1, "animals/dog": 1, "plants/oak": 1}


@pytest.mark.integration
def test_load_dataset_reads_hugging_face_datasets():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [Image.fromarray(pixels) for pixels in PIXELS[:4]], "label": [1, 0, 1, 1]}
    examples = training.load_dataset(datasets.Dataset.from_dict(rows, features=features))
    assert examples.class_counts == {"cat": 1, "dog": 3}
    assert np.array_equal(examples.images[0], PIXELS[0])


@pytest.mark.integration
def test_load_dataset_reads_grain_loaders():
    grain = pytest.importorskip("grain")
    source = grain.MapDataset.source([{"image": pixels, "label": n % 2} for n, pixels in enumerate(PIXELS)])
    assert training.load_dataset(source.batch(4).to_iter_dataset()).class_counts == {"0": 6, "1": 6}


@pytest.mark.parametrize("labels", [TAGS, [0, 1, 2] * 4, [n / 3 for n in range(12)]], ids=["tags", "classes", "values"])
def test_k_fold_uses_each_image_once_and_never_divides_a_group(labels):
    problem_type = REGRESSION if isinstance(labels[1], float) else None
    examples = training.load_dataset((PIXELS, labels), problem_type=problem_type)
    held = [[*map(np.ndarray.tobytes, part.images)] for _, part in training.k_fold(examples, 3, seed=1)]
    assert sorted(itertools.chain(*held)) == sorted(map(np.ndarray.tobytes, PIXELS))
    grouped = dataclasses.replace(examples, groups=tuple("aabbccddeeff"))
    for kept, held_out in training.k_fold(grouped, 3):
        assert not {*kept.groups} & {*held_out.groups}
    kept, held_out = training.stratified_split(grouped, 0.25)
    assert held_out.groups
    assert not {*kept.groups} & {*held_out.groups}
    with pytest.raises(ValueError, match="folds must be 2 to 6, the number of groups"):
        next(training.k_fold(grouped, 7))


def test_stratified_split_gives_each_part_the_rare_labels():
    tags = [["common"]] * 90 + [["common", "rare"]] * 10
    examples = training.load_dataset(([PIXELS[0]] * 100, tags))
    assert np.bincount(strata(examples)).tolist() == [90, 10]
    for seed in range(5):
        kept, held_out = training.stratified_split(examples, 0.2, seed)
        assert held_out.class_counts == {"common": 20, "rare": 2}
        assert kept.class_counts == {"common": 80, "rare": 8}


def test_balanced_class_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 8 + [1] * 3 + [2])
    examples = training.load_dataset((PIXELS, labels))
    config = training.TrainingConfig(class_weights="balanced", batch_size=4)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(examples, config), expected, rtol=1e-6)
    from convnext_keras.data.transforms import ImageTransform

    _, targets, weights = next(training_batches(examples, config, ImageTransform(8)))
    np.testing.assert_allclose(weights, expected[targets.argmax(axis=1)], rtol=1e-6)
    with pytest.raises(ValueError, match="for a regression"):
        class_weights(training.load_dataset((PIXELS, labels), problem_type=REGRESSION), config)


def test_balanced_sampling_draws_each_class_equally():
    from convnext_keras.data.transforms import ImageTransform

    examples = training.load_dataset(([PIXELS[0]] * 200, [0] * 190 + [1] * 10))
    config = training.TrainingConfig(sampling="balanced", batch_size=50)
    batches = training_batches(examples, config, ImageTransform(8))
    drawn = np.concatenate([next(batches)[1] for _ in range(8)])
    assert 0.4 < drawn[:, 1].mean() < 0.6


def test_sample_weights_reach_the_batches():
    from convnext_keras.data.transforms import ImageTransform

    weights = RNG.uniform(0.5, 2, 12).astype("float32")
    examples = training.load_dataset((PIXELS, [0, 1] * 6, weights))
    config = training.TrainingConfig(batch_size=12)
    _, _, got = next(training_batches(examples, config, ImageTransform(8)))
    assert sorted(got.tolist()) == sorted(weights.tolist())
    with pytest.raises(ValueError, match="finite numbers of 0 or more"):
        training.load_dataset((PIXELS, [0, 1] * 6, -weights))


TARGETS = (RNG.random((20, 5)) < 0.4).astype("float32")
LOGITS = RNG.normal(0, 3, (20, 5)).astype("float32")


def reference_loss(gamma_positive, gamma_negative, margin):
    """The asymmetric loss of arXiv:2009.14119 in float64."""
    p = 1 / (1 + np.exp(-LOGITS.astype("float64")))
    q = np.maximum(p - margin, 0)
    positive, negative = (1 - p) ** gamma_positive * np.log(p), q**gamma_negative * np.log(1 - q)
    return float(-np.mean(TARGETS * positive + (1 - TARGETS) * negative))


@pytest.mark.parametrize(
    ("name", "parameters"), [("bce", (0, 0, 0)), ("focal", (2, 2, 0)), ("asymmetric", (0, 4, 0.05))]
)
def test_multi_label_losses_equal_the_papers(name, parameters):
    loss = build_loss(name, MULTI_LABEL)
    assert float(loss(TARGETS, LOGITS)) == pytest.approx(reference_loss(*parameters), rel=1e-5)
    restored = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(restored(TARGETS, LOGITS)) == float(loss(TARGETS, LOGITS))


def test_losses_stay_finite_for_extreme_logits():
    extreme = np.array([[1e4, -1e4, 1e4, -1e4, 0]], "float32")
    for problem_type, names in LOSSES.items():
        targets = (
            np.array([[0, 1, 1, 0, 0]], "float32") if problem_type == MULTI_LABEL else np.eye(5, dtype="float32")[:1]
        )
        for name in names:
            assert np.isfinite(float(build_loss(name, problem_type)(targets, extreme))), (problem_type, name)


def test_build_loss_rejects_losses_of_other_problem_types():
    with pytest.raises(ValueError, match=r"loss must be 'mse', 'mae' or 'huber' for regression. Received: loss='bce'"):
        build_loss("bce", REGRESSION)
    with pytest.raises(ValueError, match="label_smoothing"):
        build_loss(None, REGRESSION, 0.1)


def test_multi_label_metrics_equal_scikit_learn():
    scores = np.round(to_scores(LOGITS, MULTI_LABEL), 1)  # with ties
    result = training.MultiLabelEvaluation(scores, TARGETS, tuple("abcde"), (0.45,) * 5)
    expected = sklearn_metrics.average_precision_score(TARGETS, scores, average=None)
    assert [*result.average_precisions.values()] == pytest.approx(expected.tolist())
    assert result.mean_average_precision == pytest.approx(expected.mean())
    for name, average in (("macro_f1", "macro"), ("micro_f1", "micro")):
        expected = sklearn_metrics.f1_score(TARGETS, scores > 0.45, average=average)
        assert getattr(result, name) == pytest.approx(expected)
    exact = training.MultiLabelEvaluation(to_scores(LOGITS / 3, MULTI_LABEL), TARGETS, tuple("abcde"), (0.5,) * 5)
    assert exact.loss == pytest.approx(sklearn_metrics.log_loss(TARGETS.ravel(), exact.scores.ravel()))
    assert average_precision(scores[:, 0], np.zeros(20, bool)) is None


def test_choose_thresholds_finds_the_highest_f1():
    scores = to_scores(LOGITS, MULTI_LABEL)
    chosen = choose_thresholds(scores, TARGETS)
    best = training.MultiLabelEvaluation(scores, TARGETS, tuple("abcde"), chosen).class_metrics
    for column in range(5):
        for threshold in np.linspace(0, 1, 101):
            f1 = sklearn_metrics.f1_score(TARGETS[:, column], scores[:, column] > threshold)
            assert best["abcde"[column]]["f1"] >= f1 - 1e-9
    assert choose_thresholds(scores[:, :1], np.zeros((20, 1))) == (0.5,)


def test_regression_metrics_equal_scikit_learn():
    true = RNG.normal(50, 10, (30, 2))
    predicted = true + RNG.normal(0, 3, true.shape)
    result = training.RegressionEvaluation(predicted, true, ("width", "height"))
    assert result.r2 == pytest.approx(sklearn_metrics.r2_score(true, predicted))
    assert result.mean_absolute_error == pytest.approx(sklearn_metrics.mean_absolute_error(true, predicted))
    expected = np.mean([np.corrcoef(true[:, k], predicted[:, k])[0, 1] for k in range(2)])
    assert result.correlation == pytest.approx(expected)
    assert [*result.summary()["values"]] == ["width", "height"]


def test_select_labels_by_problem_type():
    scores = np.array([0.6, 0.1, 0.9, 0.4, 0.2, 0.3])
    assert select_labels(scores, SINGLE_LABEL).tolist() == [2, 0, 3, 5, 4]
    assert select_labels(scores, SINGLE_LABEL, top_k=1).tolist() == [2]
    assert select_labels(scores, MULTI_LABEL).tolist() == [2, 0]
    assert select_labels(scores, MULTI_LABEL, np.full(6, 0.35), top_k=2).tolist() == [2, 0]
    assert select_labels(scores, MULTI_LABEL, np.ones(6)).tolist() == []
    assert select_labels(scores, REGRESSION).tolist() == [*range(6)]


@needs_training
def test_generalized_cross_entropy_tends_to_cross_entropy():
    targets = np.eye(5, dtype="float32")[RNG.integers(0, 5, 20)]
    near = training.GeneralizedCrossEntropy(q=1e-3)(targets, LOGITS)
    exact = keras.losses.CategoricalCrossentropy(from_logits=True)(targets, LOGITS)
    assert float(to_numpy(near)) == pytest.approx(float(to_numpy(exact)), rel=0.02)
