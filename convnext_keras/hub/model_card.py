"""The model card of a repository, `README.md`: its head for the hub, and what people need to know."""

import json
import re
from collections.abc import Mapping

from convnext_keras.hub.model_info import ModelInfo
from convnext_keras.pretrained_info import PretrainedInfo

LOADING_SNIPPETS = {
    "timm": 'import timm\n\nmodel = timm.create_model("hf-hub:OWNER/NAME", pretrained=True)',
    "transformers": 'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("OWNER/NAME")',
    "open_clip": 'import open_clip\n\nmodel, preprocess = open_clip.create_model_from_pretrained("hf-hub:OWNER/NAME")',
}
# transformers' class for each task of the hub.
TRANSFORMERS_CLASSES = {
    "image-classification": "AutoModelForImageClassification",
    "image-feature-extraction": "AutoModel",
    "image-segmentation": "UperNetForSemanticSegmentation",
}


def render_model_card(
    description: ModelInfo,
    origin: PretrainedInfo | None,
    name: str,
    intended_use: str | None,
    metrics: Mapping[str, float],
) -> str:
    """Returns the text of a model card.

    Args:
        description: Description of the model.
        origin: Where the weights that it was tuned from come from.
        name: Name of the model, for the title.
        intended_use: What it is for, in sentences.
        metrics: Results by their names, as they are to be printed.
    """
    form, variant, transform = description.format, description.variant, description.transform
    task = "image-classification" if description.classes else "image-feature-extraction"
    task = "zero-shot-image-classification" if description.clip else task
    task = "image-segmentation" if description.segmentation else task
    library = "convnext_keras" if form == "keras" else form  # Keras' own loader expects other files.
    head = [f"library_name: {library}", f"pipeline_tag: {task}", "tags:", "- convnext", "- convnext_keras"]
    if description.license:  # a stranger's text, which must not become more lines of YAML
        is_plain = re.fullmatch(r"[\w.+-]+", description.license)
        head = [f"license: {description.license if is_plain else json.dumps(description.license)}", *head]
    base = (origin and origin.weights_name) or ""
    if base.startswith("hf://"):
        head.append(f"base_model: {base.removeprefix('hf://').partition('@')[0]}")
    where = base or (origin.weights_file.name if origin and origin.weights_file else "random weights")
    checked = f" (sha256 {origin.sha256})" if origin and origin.sha256 else ""
    rows = {
        "Architecture": f"ConvNeXt{' V2' * variant.use_grn}, depths {variant.depths}, widths {variant.dims}",
        "Parameters": f"{description.num_params:,}",
        "Classes": str(description.classes or "none"),
        "Images": f"{transform.shape[0]} x {transform.shape[1]} pixels, {transform.resize_mode} resize, "
        f"{transform.interpolation}",
        "License": description.license or "not stated",
        "Trained from": f"{where}{checked}",
    }
    module = "clip" if description.clip else "convnext_keras"
    start = "from convnext_keras import clip" if description.clip else "import convnext_keras"
    calls = [f'{start}\n\nmodel = {module}.create_model("hf://OWNER/NAME")']
    if form in LOADING_SNIPPETS:
        calls.append(LOADING_SNIPPETS[form].format(kind=TRANSFORMERS_CLASSES.get(task, "")))
    lines = ["---", *head, "---", "", f"# {name}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    lines += ["", "## Use", ""]
    lines += [line for call in calls for line in ("```python", call, "```", "")]
    lines += ["## Intended use", ""]
    lines += [intended_use or "Not stated by whoever saved it."]
    if metrics:
        lines += ["", "## Results", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in metrics.items()]
    return "\n".join([*lines, "", "Written by convnext_keras.", ""])
