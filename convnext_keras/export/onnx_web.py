"""A model as a web page without a build step: ONNX files, what prepares their input, and ONNX Runtime Web."""

import json
import os
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import keras

from convnext_keras.clip.model import CLIP
from convnext_keras.clip.zero_shot import DEFAULT_TEMPLATE, validate_labels, validate_templates
from convnext_keras.constructors import create_model
from convnext_keras.data.transforms import ImageTransform
from convnext_keras.export.api import ExportResult, check_model, check_output_folder, export
from convnext_keras.export.clip import with_unit_vectors
from convnext_keras.export.metadata import CLASSIFIER_OUTPUTS, output_names
from convnext_keras.export.runtimes import METADATA_SUFFIX
from convnext_keras.export.tokenizer_file import tokenizer_json
from convnext_keras.files import atomic_path
from convnext_keras.model import get_pretrained_info, get_problem_type
from convnext_keras.problem_types import PROBLEM_TYPES

RUNTIME_URL = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"
MODEL_FILE = "model.json"
PAGE_FILES = ("index.html", "app.js", "image.js", "tokenizer.js")
EXAMPLE_LABELS = ("cat", "dog")
README = """# {name} in the browser

Serve this folder with any file server, and open it: `python -m http.server`. The page loads ONNX Runtime Web from
`{runtime}`; what it computes stays in the browser. To load the runtime from here too:

    npm pack onnxruntime-web && tar -xzf onnxruntime-web-*.tgz && mv package/dist ort

and set `"runtime": "./ort/"` in `model.json`.
"""


def export_onnx_web(
    model: keras.Model | CLIP | str,
    folder: str | os.PathLike,
    *,
    labels: Sequence[str] = EXAMPLE_LABELS,
    template: str = DEFAULT_TEMPLATE,
    runtime_url: str = RUNTIME_URL,
    precision: str = "float32",
    overwrite: bool = False,
    verify: bool = True,
) -> ExportResult:
    """Writes a classifier, or a ConvNeXt-CLIP for zero-shot classification, as a static web page.

    The page prepares images as Python does, by Pillow's resize, and runs ONNX files with ONNX Runtime Web. `image.js`
    and `tokenizer.js` are modules without dependencies, for pages of your own and for Node.

    Args:
        model: A classifier or a ConvNeXt-CLIP, or a classifier's name.
        folder: Folder to write.
        labels: Labels of a ConvNeXt-CLIP that the page begins with; its visitors enter others.
        template: Prompt of each label, with `{}` in place of it.
        runtime_url: Address of the `dist` folder of onnxruntime-web; `"./ort/"` for a copy in the folder.
        precision: `"float32"`, `"float16"` or `"int8_weights"`, see `export`.
        overwrite: Whether a folder that this function wrote may be replaced.
        verify: See `export`.

    Returns:
        What was written: all bytes, the largest difference, and the seconds for one image.

    Raises:
        TypeError: If the model is none of these.
        ValueError: If the folder exists, the model is of another kind, or its images are prepared in a way that the
            page does not know; or see `export`.

    Example:
        >>> from convnext_keras import create_model, export
        >>> written = export.export_onnx_web(create_model("convnext_mini.digits"), "digits-page", verify=False)
        >>> sorted(path.name for path in written.path.glob("*.js*"))
        ['app.js', 'image.js', 'model.json', 'tokenizer.js']
    """
    folder = Path(folder)
    check_output_folder(folder, overwrite, is_own=(folder / MODEL_FILE).is_file())
    model = create_model(model) if isinstance(model, str) else model
    check_model(model, (keras.Model, CLIP), "a classifier, its name, or a ConvNeXt-CLIP")
    facts = clip_facts(model, labels, template) if isinstance(model, CLIP) else classifier_facts(model)
    with atomic_path(folder) as whole:
        whole.mkdir()
        towers: dict[str, tuple[keras.Model, dict[str, Any]]] = {}
        if isinstance(model, CLIP):
            towers["image"] = with_unit_vectors(model.image_encoder), {"input_dtype": "uint8"}
            towers["text"] = with_unit_vectors(model.text_encoder), {"input_size": model.tokenizer.context_length}
            content = json.dumps(tokenizer_json(model.tokenizer), ensure_ascii=False)
            (whole / "tokenizer.json").write_text(content, encoding="utf-8")
        else:
            size = tuple(facts["image"]["size"])
            towers["image"] = model, {"input_dtype": "uint8", "input_size": size}
        options: dict[str, Any] = {"precision": precision, "batch_size": 1, "verify": verify}
        results = [export(tower, whole / f"{name}.onnx", **options, **form) for name, (tower, form) in towers.items()]
        for metadata in whole.glob(f"*.onnx{METADATA_SUFFIX}"):
            metadata.unlink()
        content = json.dumps({**facts, "runtime": runtime_url}, indent=2, ensure_ascii=False)
        (whole / MODEL_FILE).write_text(content, encoding="utf-8")
        (whole / "README.md").write_text(README.format(name=facts["name"], runtime=runtime_url), encoding="utf-8")
        source = resources.files("convnext_keras.export").joinpath("web_example")
        for name in PAGE_FILES:
            with resources.as_file(source.joinpath(name)) as file:
                shutil.copyfile(file, whole / name)
        size = sum(file.stat().st_size for file in whole.iterdir())
    errors = [part.max_relative_error for part in results if part.max_relative_error is not None]
    seconds = results[0].latency_seconds
    return ExportResult(folder, "onnx-web", precision, max(errors, default=None), size, seconds)


def classifier_facts(model: keras.Model) -> dict[str, Any]:
    """Returns what the page needs of a classifier: classes, how images are prepared, what is left to compute."""
    (kind, *_) = output_names(model)
    if kind not in CLASSIFIER_OUTPUTS:
        raise ValueError(f"{model.name!r} gives {kind}. A page is of a classifier or of a ConvNeXt-CLIP.")
    info, count = get_pretrained_info(model), model.outputs[0].shape[-1]
    names = (info and info.class_names) or [(str(number),) * 2 for number in range(count)]
    activation = PROBLEM_TYPES[get_problem_type(model)] if kind == "logits" else None
    return {
        "name": str((info and info.weights_name) or model.name),
        "kind": "classifier",
        "image": image_facts((info and info.transform) or ImageTransform(224)),
        "classes": [name for _, name in names],
        "activation": activation or "none",
    }


def clip_facts(model: CLIP, labels: Sequence[str], template: str) -> dict[str, Any]:
    """Returns what the page needs of a ConvNeXt-CLIP."""
    info = model.pretrained_info
    return {
        "name": str((info and info.weights_name) or model.name),
        "kind": "clip",
        "image": image_facts(model.transform),
        "context_length": model.tokenizer.context_length,
        "logit_scale": model.logit_scale,
        "logit_bias": model.logit_bias,
        "template": validate_templates(template)[0],
        "labels": [*validate_labels(labels)],
    }


def image_facts(transform: ImageTransform) -> dict[str, Any]:
    """Returns how images are prepared, as `image.js` reads it.

    Raises:
        ValueError: If the page does not know this way.
    """
    rows, columns = transform.resize_edges
    known = (
        transform.resize_mode in ("shortest", "squash")
        and transform.interpolation in ("bilinear", "bicubic")
        and transform.crop_rounding == "half_even"
        and transform.channels in (1, 3)
        and transform.quantize
        and not transform.bgr
        and (transform.resize_mode == "squash" or rows == columns)
    )
    if not known:
        raise ValueError(f"The page resizes the shorter edge and crops, or squashes. Received: {transform}")
    return {
        "size": [*transform.shape[:2]],
        "channels": transform.channels,
        "resize": [rows, columns],
        "resize_mode": transform.resize_mode,
        "interpolation": transform.interpolation,
    }
