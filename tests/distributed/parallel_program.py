"""Trains on several devices or processes, as docs/guides/distributed.md shows. Run by `test_model_parallel.py`.

Each recipe prints the losses of two steps and a sum of weights, which must be those of one device: what the recipes
give that are called after an import.
"""

import os
import runpy
import sys
from pathlib import Path

RECIPE, DEVICES, RANK, PORT, FOLDER = "", 1, 0, "", ""
if __name__ == "__main__":
    RECIPE, DEVICES, RANK, PORT, FOLDER = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
if RECIPE and os.environ["KERAS_BACKEND"] == "jax" and RECIPE != "jax_processes":
    os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={DEVICES}"
if RECIPE:  # Keras for seconds less, by CONVNEXT_KERAS_LEAN, and nothing of the library before `jax.distributed`.
    runpy.run_path(str(Path(__file__).parents[2] / "convnext_keras" / "fast_import.py"))["import_keras"]()
if RECIPE == "jax_processes":
    import keras

    keras.distribution.initialize(f"127.0.0.1:{PORT}", DEVICES, RANK)

import keras
import numpy as np
from backends import randomize
from clip_models import variant

from convnext_keras import ConvNeXt, clip, distributed
from convnext_keras.configs import ConvNeXtConfig

BATCH, STEPS = 8, 2
TRUNK = {"depths": (1, 1), "dims": (8, 16)}


def pairs(model):
    """Pixels and tokens of random pairs, of which two have the same text."""
    pixels = np.random.default_rng(0).uniform(0, 255, (BATCH, *model.image_encoder.input_shape[1:])).astype("float32")
    return {"images": pixels, "tokens": model.tokenizer(["a", "b", "c", "d", "a", "e", "f", "g"])}


def new_clip():
    """The same numbers in every process, also where `randomize` leaves them alone."""
    model = randomize(clip.CLIPConvNeXt(variant("custom_text")._replace(vision=ConvNeXtConfig(**TRUNK))))
    for weight in model.weights:
        if weight.name in ("embeddings", "projection"):
            weight.assign(np.random.default_rng(2).normal(0, 0.1, weight.shape).astype("float32"))
    model.get_layer("similarity").logit_scale.assign(2.0)
    return model


def new_classifier():
    return randomize(ConvNeXt(**TRUNK, weights=None, input_shape=(32, 32, 3), classes=6, classifier_activation=None))


def told(losses, model):
    """Losses and a sum of weights, printed too."""
    sums = sum(float(np.abs(weight).sum()) for weight in model.get_weights())
    print(*(f"{float(loss):.9f}" for loss in losses), f"{sums:.6f}", flush=True)
    return [*map(float, losses), sums]


def fit_clip(model, callbacks=()):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), clip.ContrastiveLoss())
    options = {"batch_size": BATCH, "epochs": STEPS, "shuffle": False, "callbacks": callbacks, "verbose": 0}
    return told(model.fit(pairs(model), **options).history["loss"], model)


def fit_classifier(model):
    pixels = np.random.default_rng(0).uniform(0, 255, (BATCH, 32, 32, 3)).astype("float32")
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(pixels, np.arange(BATCH) % 6, batch_size=BATCH, epochs=STEPS, shuffle=False, verbose=0)
    return told(history.history["loss"], model)


def jax_alone():
    return fit_clip(new_clip())


def jax_data():
    """Saves after the first step, as a callback would."""
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    model = new_clip()
    fit_clip(model, [keras.callbacks.ModelCheckpoint(f"{FOLDER}/{{epoch}}.keras")])


def jax_resumed():
    """Goes on from the file of `jax_data`, on another number of devices."""
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    model = keras.models.load_model(f"{FOLDER}/1.keras")
    told(model.fit(pairs(model), batch_size=BATCH, shuffle=False, verbose=0).history["loss"], model)


def jax_seeded_alone():
    """A seed's initial weights."""
    keras.utils.set_random_seed(3)
    return told([], ConvNeXt(**TRUNK, weights=None, input_shape=(32, 32, 3), classes=6))


def jax_seeded():
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    jax_seeded_alone()


def jax_model():
    mesh = keras.distribution.DeviceMesh((2, DEVICES // 2), ("batch", "model"), keras.distribution.list_devices())
    layouts = distributed.layout_map(new_clip(), mesh)
    distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    keras.distribution.set_distribution(distribution)
    model = new_clip()
    kernel = model.get_layer("text_encoder").get_layer("text_block_0_mlp_in").kernel.value
    assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // (DEVICES // 2)
    fit_clip(model)


def jax_processes():
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    model = new_clip()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), clip.ContrastiveLoss())
    inputs = pairs(model)
    share = BATCH // DEVICES
    mine = {name: rows[RANK * share : (RANK + 1) * share] for name, rows in inputs.items()}
    losses = [model.train_on_batch(mine) for _ in range(STEPS)]
    told(losses, model)


def mirrored(make, fit):
    import tensorflow as tf

    if DEVICES == 1:
        return fit(make())
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)
    with tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(DEVICES)]).scope():
        return fit(make())


def tensorflow_clip():
    return mirrored(new_clip, fit_clip)


def tensorflow_classifier():
    return mirrored(new_classifier, fit_classifier)


def tensorflow_refused():
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"]).scope():
        try:
            fit_clip(new_clip())
        except ValueError as error:
            print(error)


def torch_processes():
    import torch

    model = new_clip()
    inputs, targets = pairs(model), np.array([0, 1, 2, 3, 0, 5, 6, 7])
    loss_of, share = clip.ContrastiveLoss(), BATCH // DEVICES
    mine = {name: rows[RANK * share : (RANK + 1) * share] for name, rows in inputs.items()}
    run = model
    if DEVICES > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{PORT}", world_size=DEVICES, rank=RANK
        )
        run = torch.nn.parallel.DistributedDataParallel(model)
        try:
            fit_clip(model)
        except ValueError as error:
            print(error, file=sys.stderr)
    optimizer = torch.optim.SGD([weight.value for weight in model.trainable_variables], lr=0.01, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = run({name: torch.as_tensor(rows) for name, rows in mine.items()}, training=True)
        loss = loss_of(torch.as_tensor(targets), logits)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return told(losses, model)


if RECIPE:
    globals()[RECIPE]()
