"""A contender of `benchmark.py` in its own process, which may have no more than timm, OpenCLIP or PyTorch."""

import json
import os
import resource
import sys
import tempfile
import time
from typing import NamedTuple

LIMIT_SIZE = 3072  # rows and columns of the matrices whose product is the machine's limit
PROMPTS = [f"a photo of a {thing} on the table." for thing in ("dog", "red car", "cup of tea", "violin")]


class Contender(NamedTuple):
    """One way to run a model.

    Attributes:
        library: `ours`, `keras` (keras.applications), `timm`, `open_clip`, or `limit`.
        backend: of Keras, or `torch`.
        precision: `float32`, `bfloat16`, or `tf32` on a GPU.
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
    """What is measured: a key of `GIGA`, what is done with it, how many pictures or texts at a time, and where.

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


def our_model(contender: Contender, task: Task):
    """A Keras model of this library or of keras.applications, and its inputs."""
    import keras
    import numpy as np

    import convnext_keras

    if contender.precision == "bfloat16" and contender.backend != "openvino":
        keras.config.set_dtype_policy("mixed_bfloat16")
    random = np.random.default_rng(0)
    if task.model.startswith("clip"):
        model = convnext_keras.clip.CLIPConvNeXtBaseW(weights=None)
        if task.model == "clip text":
            return model.encode_text, (PROMPTS * task.batch)[: task.batch]
        pixels = random.integers(0, 256, (task.batch, 256, 256, 3), "uint8").astype("float32")
        return lambda inputs: model.encode_pixels(inputs, task.batch), pixels
    source = convnext_keras if contender.library == "ours" else keras.applications
    constructor = getattr(source, {"tiny": "ConvNeXtTiny", "base": "ConvNeXtBase"}[task.model])
    model = constructor(weights=None)
    pixels = random.uniform(0, 255, (task.batch, 224, 224, 3)).astype("float32")
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

    device = "cuda" if torch.cuda.is_available() and os.environ.get("BENCHMARK_GPU") else "cpu"
    kind = torch.bfloat16 if contender.precision == "bfloat16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = contender.precision == "tf32"

    def finished(result):
        return (
            result.float().cpu() if result.numel() < 10**6 else (torch.cuda.synchronize() if device == "cuda" else None)
        )

    if contender.library == "limit":
        size = LIMIT_SIZE * (4 if device == "cuda" else 1)
        matrix = torch.randn(size, size, dtype=kind, device=device)
        if device == "cuda":
            return lambda inputs: finished(inputs @ inputs), matrix
        product = torch.ops.mkldnn._linear_pointwise  # oneDNN's, the fastest that was found on CPUs
        return lambda inputs: finished(product(inputs, inputs, None, "none", [], "")), matrix
    if contender.library == "open_clip":
        import open_clip

        model = open_clip.create_model("convnext_base_w").eval()
        inputs = torch.randn(task.batch, 3, 256, 256)
        if task.model == "clip text":
            inputs = open_clip.get_tokenizer("convnext_base_w")((PROMPTS * task.batch)[: task.batch])
        encode = model.encode_text if task.model == "clip text" else model.encode_image
        return torch.inference_mode()(lambda tensors: finished(encode(tensors))), inputs
    import timm

    train = task.action == "train"
    model = timm.create_model(f"convnext_{task.model}").to(device).train(train)
    model = model if train and device == "cuda" else model.to(kind)
    inputs = torch.randn(
        task.batch, 3, 224, 224, device=device, dtype=torch.float32 if train and device == "cuda" else kind
    )
    if contender.setting == "channels_last" or (device == "cuda"):
        model, inputs = model.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    if contender.setting == "compiled":
        model = torch.compile(model)
    if not train:
        return torch.inference_mode()(lambda tensors: finished(model(tensors))), inputs
    optimizer = torch.optim.AdamW(model.parameters())
    labels = torch.zeros(task.batch, dtype=torch.long, device=device)

    def step(tensors):
        with torch.autocast(device, torch.bfloat16, enabled=contender.precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(tensors), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return finished(loss.detach())

    return step, inputs


def work(contender: Contender, task: Task) -> None:
    """A contender's process: says how long its start took, then runs once for each line that it is sent."""
    start = time.perf_counter()
    of_torch = contender.library in ("timm", "open_clip", "limit")
    run, inputs = (torch_model if of_torch else our_model)(contender, task)
    built = time.perf_counter() - start
    run(inputs)
    print(json.dumps([built, time.perf_counter() - start]), flush=True)
    run(inputs)
    for _ in sys.stdin:
        start = time.perf_counter()
        run(inputs)
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]), flush=True)


if __name__ == "__main__":
    who, what = json.loads(sys.argv[1])
    work(Contender(*who), Task(*what))
