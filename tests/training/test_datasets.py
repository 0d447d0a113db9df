"""Images with classes in every form, their split, and what is refused."""

import csv
import shutil

import numpy as np
import pytest
from backends import BACKEND
from PIL import Image

from convnext_keras import training

pytestmark = pytest.mark.any_backend
RANDOM = np.random.default_rng(0)


def write_images(folder, counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            size = RANDOM.integers(20, 60, 2)
            Image.fromarray(RANDOM.integers(0, 256, (*size, 3), "uint8")).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_for_each_class(tmp_path):
    examples = training.load_dataset(write_images(tmp_path / "pets", {"dog": 3, "cat": 2}))
    assert examples.class_names == ("cat", "dog")
    assert examples.class_counts == {"cat": 2, "dog": 3}
    assert [path.parent.name for path in examples.images] == ["cat"] * 2 + ["dog"] * 3
    reverse = training.load_dataset(tmp_path / "pets", class_names=["dog", "cat"])
    assert reverse.labels.tolist() == [1] * 2 + [0] * 3


def test_folders_of_training_and_validation_are_the_split(tmp_path):
    write_images(tmp_path / "train", {"dog": 3, "cat": 2})
    write_images(tmp_path / "val", {"dog": 1, "cat": 2})
    parts = training.train_val_split(tmp_path, 0.2, None, 0, "raise")
    assert [part.class_counts for part in parts] == [{"cat": 2, "dog": 3}, {"cat": 2, "dog": 1}]


def test_load_dataset_from_a_table(tmp_path):
    folder = write_images(tmp_path / "pets", {"dog": 2, "cat": 2})
    with (tmp_path / "pets.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["File", "Label", "other"])
        rows.writerows([[path.relative_to(tmp_path), path.parent.name, 1] for path in folder.rglob("*.png")])
    assert training.load_dataset(tmp_path / "pets.csv").class_counts == {"cat": 2, "dog": 2}
    (tmp_path / "bad.csv").write_text("name,label\na.png,dog\n")
    with pytest.raises(ValueError, match=r"bad.csv must have a column 'path', .*Received: name, label"):
        training.load_dataset(tmp_path / "bad.csv")


PIXELS = RANDOM.integers(0, 256, (6, 9, 9, 3), "uint8")


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2, 0, 1, 2], np.array([0, 1, 2] * 2), np.eye(3)[[0, 1, 2] * 2], ["0", "1", "2"] * 2],
    ids=["list", "array", "rows", "names"],
)
def test_load_dataset_from_arrays(labels):
    examples = training.load_dataset((PIXELS, labels))
    assert examples.class_counts == {"0": 2, "1": 2, "2": 2}
    assert examples.labels.tolist() == [0, 1, 2] * 2


def torch_loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(PIXELS), torch.tensor([0, 1, 2] * 2))
    return torch.utils.data.DataLoader(data, batch_size=4)


LOADERS = {
    "pairs": lambda: iter([(pixels, number % 3) for number, pixels in enumerate(PIXELS)]),
    "batches": lambda: [(PIXELS[:4], [0, 1, 2, 0]), (PIXELS[4:], [1, 2])],
    "dictionaries": lambda: [{"image": pixels, "label": number % 3} for number, pixels in enumerate(PIXELS)],
    "torch": torch_loader,
}


@pytest.mark.parametrize("loader", LOADERS)
def test_load_dataset_from_loaders(loader):
    examples = training.load_dataset(LOADERS[loader]())
    assert examples.labels.tolist() == [0, 1, 2] * 2
    np.testing.assert_array_equal(np.stack([*examples.images]), PIXELS)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND not in ("torch", "tensorflow"), reason="once is enough")
def test_load_dataset_from_tf_data():
    tf = pytest.importorskip("tensorflow")
    examples = training.load_dataset(tf.data.Dataset.from_tensor_slices((PIXELS, [0, 1, 2] * 2)).batch(4))
    assert examples.labels.tolist() == [0, 1, 2] * 2


def test_stratified_split_depends_on_the_seed():
    labels = ["a"] * 20 + ["b"] * 5 + ["c"] * 2 + ["d"]
    examples = training.load_dataset((np.zeros((28, 4, 4, 3), "uint8"), labels))
    kept, held_out = training.stratified_split(examples, 0.2, seed=3)
    assert held_out.class_counts == {"a": 4, "b": 1, "c": 1, "d": 0}
    assert kept.class_counts == {"a": 16, "b": 4, "c": 1, "d": 1}
    numbered = training.ImageDataset([*range(28)], examples.labels, examples.class_names)
    same, other = (training.stratified_split(numbered, 0.2, seed)[1].images for seed in (3, 4))
    assert training.stratified_split(numbered, 0.2, 3)[1].images == same != other
    assert not set(map(str, same)) & set(map(str, training.stratified_split(numbered, 0.2, 3)[0].images))


def test_unreadable_images_raise_or_are_skipped(tmp_path):
    folder = write_images(tmp_path, {"dog": 3, "cat": 3})
    whole = (folder / "dog" / "0.png").read_bytes()
    (folder / "dog" / "1.png").write_bytes(whole[:60])
    (folder / "dog" / "2.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1.png cannot be read.*2 of 6 images.*on_error='skip'"):
        training.load_dataset(folder)
    with pytest.warns(UserWarning, match="Left out 2 of 6"):
        examples = training.load_dataset(folder, on_error="skip")
    assert examples.class_counts == {"cat": 3, "dog": 1}
    assert [name.rpartition("/")[2] for name in examples.skipped] == ["1.png", "2.png"]
    shutil.copy(folder / "dog" / "2.png", folder / "dog" / "0.png")
    with pytest.warns(UserWarning, match="Left out 3"), pytest.raises(ValueError, match="Classes without .*: dog"):
        training.load_dataset(folder, on_error="skip")


def test_load_dataset_rejects_invalid_input(tmp_path):
    with pytest.raises(ValueError, match="neither a directory with one subdirectory per class nor a .csv"):
        training.load_dataset(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no subdirectories"):
        training.load_dataset(tmp_path)
    write_images(tmp_path, {"cat": 1})
    with pytest.raises(ValueError, match="two or more classes. Received: cat"):
        training.load_dataset(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"dog has no images"):
        training.load_dataset(tmp_path)
    write_images(tmp_path, {"eel": 1})
    shutil.rmtree(tmp_path / "dog")
    with pytest.raises(ValueError, match="class_names must name all classes. Missing: eel"):
        training.load_dataset(tmp_path, class_names=["cat", "dog"])
    with pytest.raises(ValueError, match=r"channels last.*\(6, 3, 9, 9\)"):
        training.load_dataset((PIXELS.transpose(0, 3, 1, 2), [0, 1] * 3))
    with pytest.raises(ValueError, match=r"values are -1 to 1.*look normalized"):
        training.load_dataset((PIXELS / 127.5 - 1, [0, 1] * 3))
    with pytest.raises(ValueError, match="as many labels as images. Received: 6 and 4"):
        training.load_dataset((PIXELS, [0, 1] * 2))
    with pytest.raises(ValueError, match="must sum to 1. Received: a sum of 0.6"):
        training.load_dataset((PIXELS, np.full((6, 2), 0.3)))
    with pytest.raises(ValueError, match="A loader must give pairs.*keys x, y"):
        training.load_dataset([{"x": PIXELS[0], "y": 0}])
    with pytest.raises(ValueError, match="data must be a directory.*Received: int"):
        training.load_dataset(5)
    with pytest.raises(ValueError, match="validation must be above 0 and below 1"):
        training.stratified_split(training.load_dataset((PIXELS, [0, 1] * 3)), 1.0)
    with pytest.raises(ValueError, match="on_error must be"):
        training.load_dataset((PIXELS, [0, 1] * 3), on_error="ignore")
    with pytest.raises(ValueError, match="must differ. Received twice: a"):
        training.load_dataset(training.ImageDataset(PIXELS, np.zeros(6, int), ("a", "a")))
