"""Images in batches, read ahead of the model."""

import numpy as np

from convnext_keras.data.loader import iter_batches
from convnext_keras.data.transforms import ImageTransform


def test_iter_batches_prefetch_is_bounded():
    asked = []

    def images():
        for number in range(100):
            asked.append(number)
            yield np.full((4, 4, 3), number, "uint8")

    batches = iter_batches(images(), ImageTransform(8), batch_size=3)
    first, pixels = next(batches)
    assert len(asked) <= 9
    assert [int(image[0, 0, 0]) for image in first] == [0, 1, 2]
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    batches.close()
    assert len(asked) <= 9
    rest = [pixels[:, 0, 0, 0].tolist() for _, pixels in iter_batches(images(), ImageTransform(8), batch_size=32)]
    assert [number for row in rest for number in row] == list(range(100))
    assert [len(row) for row in rest] == [32, 32, 32, 4]
