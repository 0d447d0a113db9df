"""Augmentation of images."""

import numpy as np
import pytest
from PIL import Image

from convnext_keras import training
from convnext_keras.data.augmentation import OPERATIONS, Augmentation, mixup_cutmix, rand_augment, random_affine
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.training.batching import training_batches

pytestmark = pytest.mark.any_backend
RECIPE = ImageTransform(32)


def noise(height=40, width=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), "uint8")


def test_default_augmentation_changes_nothing():
    np.testing.assert_array_equal(Augmentation(RECIPE)(noise(), np.random.default_rng(0)), RECIPE(noise()))


def test_a_mirrored_image_is_the_image_mirrored():
    flipped = Augmentation(RECIPE, hflip_prob=1.0)(noise(), np.random.default_rng(0))
    np.testing.assert_array_equal(flipped, RECIPE(noise())[:, ::-1])


def test_crops_are_parts_of_the_image():
    ramp = np.repeat(np.arange(200, dtype="uint8")[None, :, None], 200, axis=0).repeat(3, axis=2)
    augment = Augmentation(RECIPE, crop_scale=(0.1, 0.2))
    spans = [np.ptp(augment(ramp, np.random.default_rng(seed))[..., 0].astype(int)) for seed in range(30)]
    assert 200 * 0.1**0.5 * 0.7 < np.mean(spans) < 200 * 0.2**0.5 * 1.3
    assert max(spans) < 200 * (0.2 * 4 / 3) ** 0.5 + 2


def test_affine_moves_a_little_and_keeps_a_plain_background():
    image = np.full((32, 32, 3), 200, "uint8")
    image[12:20, 12:20] = 0
    for seed in range(20):
        moved = np.asarray(random_affine(Image.fromarray(image), 1.0, np.random.default_rng(seed)))
        assert moved[0, 0].tolist() == moved[-1, -1].tolist() == [200] * 3
        rows, columns = np.nonzero(moved[..., 0] < 100)
        assert abs(rows.mean() - 15.5) < 0.12 * 32
        assert abs(columns.mean() - 15.5) < 0.12 * 32
        assert 64 * 0.6 < len(rows) < 64 * 1.5
    still = np.asarray(random_affine(Image.fromarray(image), 0.0, np.random.default_rng(0)))
    np.testing.assert_array_equal(still, image)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_size_and_kind_and_do_nothing_at_strength_zero(name):
    for mode in ("RGB", "L"):
        image = Image.fromarray(noise()).convert(mode)
        changed = OPERATIONS[name](image, 0.8)
        assert (changed.size, changed.mode) == (image.size, mode)
        if name not in ("autocontrast", "equalize"):
            np.testing.assert_array_equal(np.asarray(OPERATIONS[name](image, 0.0)), np.asarray(image))


def test_rand_augment_chooses_for_each_image_anew():
    image = Image.fromarray(noise())
    results = {np.asarray(rand_augment(image, 9.0, np.random.default_rng(seed))).tobytes() for seed in range(30)}
    assert len(results) > 20


def test_gray_images_stay_gray_and_others_than_rgb_are_refused():
    options = {
        "crop_scale": (0.5, 1.0),
        "hflip_prob": 0.5,
        "affine": 1.0,
        "rand_augment": 5.0,
        "random_erasing_prob": 1.0,
    }
    gray = Augmentation(ImageTransform(32, channels=1, statistics="half"), **options)
    assert gray(noise()[..., 0], np.random.default_rng(0)).shape == (32, 32, 1)
    with pytest.raises(ValueError, match="Images of 5 channels cannot be augmented"):
        Augmentation(ImageTransform(32, channels=5), hflip_prob=0.5)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_targets_are_the_parts_of_the_pixels(mixup, cutmix):
    """Each image has one gray level, so the mean level is the mixing ratio."""
    levels = np.array([0.0, 100, 150, 250])
    pixels = np.ones((4, 32, 32, 3)) * levels[:, None, None, None]
    for seed in range(20):
        found, targets = mixup_cutmix(pixels, np.eye(4), mixup, cutmix, np.random.default_rng(seed))
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), targets @ levels, rtol=1e-4, atol=1e-3)
        assert found.dtype == targets.dtype == np.float32


def test_batches_depend_on_seed_and_epoch_only():
    examples = training.load_dataset((np.stack([noise(seed=seed) for seed in range(10)]), [0, 1] * 5))
    transform = training.TrainingConfig(batch_size=4, affine=1.0, hflip_prob=0.5, random_erasing_prob=0.5, mixup=0.5)

    def taken(seed, first_epoch, count):
        batches = training_batches(examples, transform, RECIPE, seed, first_epoch)
        return [next(batches) for _ in range(count)]

    whole, later, other = taken(0, 0, 6), taken(0, 2, 2), taken(1, 0, 2)
    for one, two in zip(whole[4:], later, strict=True):  # Two batches are an epoch.
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    assert not np.array_equal(whole[0][0], other[0][0])
    assert not np.array_equal(whole[0][0], whole[2][0])
