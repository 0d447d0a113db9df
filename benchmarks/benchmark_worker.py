"""A contender of `benchmark.py` in its own process, which may have no more than timm, OpenCLIP or PyTorch."""

import json
import resource
import sys
import tempfile
import time
from typing import NamedTuple

LIMIT_SIZE = 3072  # rows and columns of the matrices whose product is the machine's limit
PHOTOGRAPHS = 64  # that training goes round in
PROMPTS = [f"a photo of a {thing} on the table." for thing in ("dog", "red car", "cup of tea", "violin")]


class Contender(NamedTuple):
    """One way to run a model.

    Attributes:
        library: `ours`, `keras` (keras.applications), `timm`, `open_clip`, or `limit`.
        backend: of Keras, or `torch`.
        precision: `float32` or `bfloat16`.
        setting: what else is special; empty for the defaults.
    """

    library: str
    backend: str
    precision: str = "float32"
    setting: str = ""

    @property
    def name(self) -> str:
        """All of it in a few words."""
        return " ".join(part for part in (self.library, self.backend, self.setting, self.precision) if part)


class Task(NamedTuple):
    """Measurement: model (a key of `GIGA`), action and batch size.

    `backend` keeps to one of ours, where all together need more memory than small machines have.
    """

    model: str
    action: str
    batch: int
    backend: str = ""

    @property
    def name(self) -> str:
        """All of it in a few words."""
        return f"{self.model}, {self.action}, batch {self.batch}{self.backend and f', {self.backend}'}"


def variant_of(task: Task) -> tuple[str, int]:
    """Splits `"tiny at 64"` into the variant and its image size."""
    variant, _, size = task.model.partition(" at ")
    return variant, int(size or 224)


def our_model(contender: Contender, task: Task):
    """A Keras model of this library or of keras.applications, and its inputs."""
    import keras
    import numpy as np

    import convnext_keras

    if contender.precision == "bfloat16" and contender.backend != "openvino":
        keras.config.set_dtype_policy("mixed_bfloat16")
    random = np.random.default_rng(0)
    if task.action in ("transform", "groups"):
        return recipe_step(contender, task)
    if task.model.startswith("clip"):
        model = convnext_keras.clip.CLIPConvNeXtBaseW(weights=None)
        if task.model == "clip text":
            return model.encode_text, (PROMPTS * task.batch)[: task.batch]
        pixels = random.integers(0, 256, (task.batch, 256, 256, 3), "uint8").astype("float32")
        return lambda inputs: model.encode_pixels(inputs, task.batch), pixels
    source = convnext_keras if contender.library == "ours" else keras.applications
    variant, size = variant_of(task)
    model = getattr(source, f"ConvNeXt{variant.capitalize()}")(weights=None, input_shape=(size, size, 3))
    pixels = random.uniform(0, 255, (task.batch, size, size, 3)).astype("float32")
    if task.action == "train":
        options = {"jit_compile": True} if contender.setting == "jit_compile" else {}
        model.compile("adamw", "sparse_categorical_crossentropy", **options)
        labels = np.zeros(task.batch, "int32")
        return lambda inputs: model.train_on_batch(inputs, labels), pixels
    if contender.setting in ("folded", "exported"):
        model = convnext_keras.fold_for_inference(model)
    if contender.setting == "exported":
        return exported(model, contender.precision), pixels
    if contender.setting == "jit_compile":
        model.compile(jit_compile=True)
    if task.action == "call":
        return lambda inputs: keras.ops.convert_to_numpy(model(inputs)), pixels
    return lambda inputs: model.predict(inputs, batch_size=task.batch, verbose=0), pixels


# What of the recipe `fine_tune` is changed in the contenders of `transform`.
CHANGES: dict[str, dict] = {
    "": {},
    "fixed batch": {},
    "fixed batch, one group": {"layer_decay": 1.0},
    "accumulated": {"accumulation_steps": 4},
    "rematerialized": {},
}
GROUPS = ("fixed batch", "fixed batch, one group", "fixed batch, MultiOptimizer")


def photographs() -> list:
    """Images of a size that is usual on the web, in smooth random colors."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    small = random.integers(0, 256, (PHOTOGRAPHS, 12, 16, 3), "uint8")
    return [Image.fromarray(row).resize((500, 375), Image.Resampling.BICUBIC) for row in small]


def recipe_step(contender: Contender, task: Task):
    """A step by the recipe `fine_tune`, whose images are changed in threads, and its batches."""
    import dataclasses

    import keras
    import numpy as np

    from convnext_keras import ConvNeXtTiny, training
    from convnext_keras.data.transforms import ImageTransform
    from convnext_keras.training.batching import training_batches
    from convnext_keras.training.finetuning import compile_model

    changes = {"batch_size": task.batch, **CHANGES.get(contender.setting, {})}
    transform = dataclasses.replace(training.TRAINING_PRESETS["fine_tune"], **changes)
    with keras.RematScope("full" if contender.setting == "rematerialized" else None):
        model = ConvNeXtTiny(weights=None, classifier_activation=None, drop_path_rate=transform.drop_path_rate)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=transform.label_smoothing)
    if contender.setting == GROUPS[2]:
        model.compile(multi_optimizer(model, transform), loss)
    else:
        compile_model(model, transform, 1000, loss)
    names = tuple(f"{number:04}" for number in range(1000))
    examples = training.ImageDataset(photographs(), np.arange(PHOTOGRAPHS), names)
    batches = training_batches(examples, transform, ImageTransform(224))
    if contender.setting.startswith("fixed batch"):
        rows = next(batches)
        return lambda fixed: model.train_on_batch(*fixed), rows
    return lambda stream: model.train_on_batch(*next(stream)), batches


def multi_optimizer(model, transform):
    """Keras' own way to have groups: an optimizer for each, whose global norms are of its group only."""
    import keras

    from convnext_keras.training.param_groups import parameter_groups, variable_key

    options = {"use_ema": True, "ema_momentum": transform.ema_decay} if transform.ema_decay else {}
    found = {}
    for group in parameter_groups(model, transform.layer_decay):
        decay = transform.weight_decay if group.decayed else 0.0
        rate = transform.learning_rate * group.scale
        optimizer = keras.optimizers.AdamW(rate, weight_decay=decay, global_clipnorm=transform.clip_norm, **options)
        found |= dict.fromkeys(group.variables, optimizer)
    return keras.optimizers.MultiOptimizer(lambda variable: found[variable_key(variable)])


def timm_recipe_step(task: Task):
    """The same with timm's own parts, put together as its `train.py` does."""
    import timm
    import torch
    from timm.data import create_transform
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    model = timm.create_model("convnext_tiny", drop_path_rate=0.1).train()
    options = {
        "scale": (0.35, 1.0),
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "re_prob": 0.25,
        "interpolation": "bicubic",
    }
    transform = create_transform(224, is_training=True, **options)
    images = photographs()
    rows = [(row, place) for place, row in enumerate(images)] * 100_000

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, place):
            image, label = rows[place]
            return transform(image), label

    loader = torch.utils.data.DataLoader(Images(), task.batch, num_workers=1, persistent_workers=True)
    optimizer = create_optimizer_v2(model, "adamw", lr=5e-4, weight_decay=0.05, layer_decay=0.8)
    average, loss = ModelEmaV3(model, 0.999), torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def step(stream):
        pixels, labels = next(stream)
        optimizer.zero_grad()
        value = loss(model(pixels), labels)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        return value.item()

    return step, iter(loader)


def exported(model, precision: str):
    """The model in OpenVINO's own format, in a precision of choice, where Keras' `predict` leaves it to OpenVINO."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        model.export(f"{folder}/model.xml", format="openvino", verbose=False)
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        compiled = openvino.compile_model(f"{folder}/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda inputs: compiled(inputs)[0]


def torch_model(contender: Contender, task: Task):
    """A model of timm or OpenCLIP, or the product of two large matrices, and its inputs."""
    import torch

    kind = torch.bfloat16 if contender.precision == "bfloat16" else torch.float32
    if contender.library == "limit":
        matrix = torch.randn(LIMIT_SIZE, LIMIT_SIZE, dtype=kind)
        product = torch.ops.mkldnn._linear_pointwise  # oneDNN's, the fastest that was found on CPUs
        return lambda inputs: product(inputs, inputs, None, "none", [], ""), matrix
    if contender.library == "open_clip":
        import open_clip

        model = open_clip.create_model("convnext_base_w").eval()
        inputs = torch.randn(task.batch, 3, 256, 256)
        if task.model == "clip text":
            inputs = open_clip.get_tokenizer("convnext_base_w")((PROMPTS * task.batch)[: task.batch])
        encode = model.encode_text if task.model == "clip text" else model.encode_image
        return torch.inference_mode()(encode), inputs
    if task.action == "transform":
        return timm_recipe_step(task)
    import timm

    train = task.action == "train"
    variant, size = variant_of(task)
    model = timm.create_model(f"convnext_{variant}").train(train)
    model, inputs = model.to(kind), torch.randn(task.batch, 3, size, size, dtype=kind)
    if contender.setting == "channels_last":
        model, inputs = model.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    if contender.setting == "compiled":
        model = torch.compile(model)
    if not train:
        return torch.inference_mode()(model), inputs
    optimizer = torch.optim.AdamW(model.parameters())
    labels = torch.zeros(task.batch, dtype=torch.long)

    def step(tensors):
        loss = torch.nn.functional.cross_entropy(model(tensors), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, inputs


def work(contender: Contender, task: Task) -> None:
    """A contender's process: says how long its start took, then runs once for each line that it is sent."""
    start = time.perf_counter()
    of_torch = contender.library in ("timm", "open_clip", "limit")
    run, inputs = (torch_model if of_torch else our_model)(contender, task)
    built = time.perf_counter() - start
    run(inputs)
    print(json.dumps([built, time.perf_counter() - start]), flush=True)
    for _ in range(2):  # since `predict` under PyTorch records a shape when it comes for the third time
        run(inputs)
    for _ in sys.stdin:
        start = time.perf_counter()
        run(inputs)
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]), flush=True)


if __name__ == "__main__":
    who, what = json.loads(sys.argv[1])
    work(Contender(*who), Task(*what))
