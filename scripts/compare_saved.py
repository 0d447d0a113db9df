"""Compares what `save_pretrained` writes with the models that it was written from, by the libraries that it is for.

    python scripts/compare_saved.py write FOLDER              # here: repositories, an image, and scores of ours
    python scripts/compare_saved.py judge FOLDER              # in an environment that has timm and transformers

`write` takes every variant of the table with random weights, at its own size, and reads each repository back: the
numbers must be the same bits. `judge` loads each repository with its own library, gives it the same image by that
library's processor, and prints a table.
"""

import argparse
import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 5
SIZE = 64  # of the images that the models take


def write(output: Path, pattern: str) -> None:
    import keras
    from make_hub_references import image
    from make_references import keras_roles, random_weights

    from convnext_keras import create_model, save_pretrained
    from convnext_keras.configs import CONVNEXT_CONFIGS
    from convnext_keras.data.transforms import ImageTransform

    output.mkdir(parents=True, exist_ok=True)
    image().save(output / "image.png")
    for name, variant in CONVNEXT_CONFIGS.items():
        if not fnmatch.fnmatch(name, pattern):
            continue
        size = max(SIZE, variant.minimum_size)
        model: Any = create_model(name, weights=None, classes=CLASSES, input_shape=(size, size, 3))
        model.set_weights(random_weights(keras_roles(model)))
        for form in ("timm", "transformers"):
            folder, row = output / f"{name}.{form}", {"name": name, "form": form, "parameters": model.count_params()}
            shutil.rmtree(folder, ignore_errors=True)
            try:
                # A transform whose crop cuts an even number of pixels off, which all libraries round alike.
                transform = ImageTransform(
                    size, resize_size=size + 16, crop_rounding="down" if form == "transformers" else "half_even"
                )
                save_pretrained(
                    model, folder, form, class_names=[f"class {n}" for n in range(CLASSES)], transform=transform
                )
            except ValueError as error:
                row["refused"] = str(error)
            else:
                again: Any = create_model(folder)
                pixels = again.pretrained_info.transform(output / "image.png")[None].astype("float32")
                scores, back = (np.asarray(keras.ops.convert_to_numpy(one(pixels))) for one in (model, again))
                row |= {"scores": scores[0].tolist(), "same_bits": bool((scores == back).all())}
            (output / f"{name}.{form}.json").write_text(json.dumps(row))
            print(name, form, row.get("refused", row.get("same_bits")), flush=True)


def write_clips(output: Path) -> None:
    """The small ConvNeXt-CLIPs of the references, written again."""
    from make_hub_references import HUB, OPEN_CLIP

    from convnext_keras import clip, save_pretrained

    for kind in OPEN_CLIP:
        name = f"clip_{kind}"
        model, folder = clip.create_model(HUB / f"open_clip_{kind}"), output / f"{name}.open_clip"
        shutil.rmtree(folder, ignore_errors=True)
        save_pretrained(model, folder, "open_clip")
        vectors = [one.encode_image(output / "image.png")[0] for one in (model, clip.create_model(folder))]
        same = bool((vectors[0] == vectors[1]).all())
        row = {"name": name, "form": "open_clip", "parameters": model.count_params(), "same_bits": same}
        (output / f"{name}.open_clip.json").write_text(json.dumps({**row, "scores": vectors[0].tolist()}))


def write_problem_types(output: Path) -> None:
    """A multi-label classifier and a regression in the formats of timm and transformers."""
    import keras
    from make_references import keras_roles, random_weights

    from convnext_keras import create_model, save_pretrained
    from convnext_keras.data.transforms import ImageTransform
    from convnext_keras.pretrained_info import PretrainedInfo
    from convnext_keras.problem_types import MULTI_LABEL, PROBLEM_TYPES, REGRESSION

    for problem_type in (MULTI_LABEL, REGRESSION):
        options: dict[str, Any] = {"classes": CLASSES, "classifier_activation": PROBLEM_TYPES[problem_type]}
        model: Any = create_model("convnext_atto", weights=None, input_shape=(SIZE, SIZE, 3), **options)
        model.set_weights(random_weights(keras_roles(model)))
        names = tuple((f"class {number}",) * 2 for number in range(CLASSES))
        model.pretrained_info = PretrainedInfo(class_names=names, problem_type=problem_type)
        for form in ("timm", "transformers"):
            name, rounding = f"atto_{problem_type}", "down" if form == "transformers" else "half_even"
            folder = output / f"{name}.{form}"
            shutil.rmtree(folder, ignore_errors=True)
            transform = ImageTransform(SIZE, resize_size=SIZE + 16, crop_rounding=rounding)
            save_pretrained(model, folder, form, transform=transform)
            again: Any = create_model(folder)
            pixels = again.pretrained_info.transform(output / "image.png")[None].astype("float32")
            scores, back = (np.asarray(keras.ops.convert_to_numpy(one(pixels))) for one in (model, again))
            row = {"name": name, "form": form, "parameters": model.count_params(), "scores": scores[0].tolist()}
            row["same_bits"] = bool((scores == back).all())
            (output / f"{name}.{form}.json").write_text(json.dumps(row))


def write_segmentation_models(output: Path) -> None:
    """The small UPerNets of the references, written again, with every seventh logit of the image's own size."""
    import keras
    from make_hub_references import HUB, UPERNET

    from convnext_keras import create_model, save_pretrained, segmentation

    for kind in (kind for kind in UPERNET if not kind.startswith("gray")):
        name = f"upernet_{kind}"
        model: Any = create_model(HUB / name)
        folder = output / f"{name}.upernet"
        shutil.rmtree(folder, ignore_errors=True)
        save_pretrained(model, folder, "transformers")
        found = segmentation.segment(model, output / "image.png")[0].labels
        again = segmentation.segment(create_model(folder), output / "image.png")[0].labels
        pixels = model.pretrained_info.transform(output / "image.png")[None].astype("float32")
        logits = np.asarray(keras.ops.convert_to_numpy(model(pixels)))
        row = {"name": name, "form": "upernet", "parameters": model.count_params()}
        row |= {"same_bits": bool((found == again).all()), "scores": logits[0].ravel()[::7].tolist()}
        (output / f"{name}.upernet.json").write_text(json.dumps({**row, "labels": found.tolist()}))


def by_upernet(folder: Path, path: Path) -> list[float]:
    from PIL import Image
    from transformers import AutoImageProcessor, UperNetForSemanticSegmentation

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    image = Image.open(path)
    outputs = UperNetForSemanticSegmentation.from_pretrained(folder).eval()(**processor(image, return_tensors="pt"))
    (labels,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])
    expected = json.loads(folder.with_name(f"{folder.name}.json").read_text())["labels"]
    if (labels.numpy() != np.array(expected)).any():
        raise ValueError(f"{folder}: {(labels.numpy() != np.array(expected)).sum()} pixels are of another class.")
    return outputs.logits[0].permute(1, 2, 0).reshape(-1)[::7].tolist()


def by_open_clip(folder: Path, path: Path) -> list[float]:
    import open_clip
    from PIL import Image

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return model.eval().encode_image(transform(Image.open(path))[None], normalize=True)[0].tolist()


def by_timm(folder: Path, path: Path) -> list[float]:
    import timm
    from PIL import Image

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    outputs = model(transform(Image.open(path).convert("RGB"))[None])
    problem_type = json.loads((folder / "config.json").read_text()).get("problem_type")
    activation = {"multi_label_classification": outputs.sigmoid, "regression": lambda: outputs}
    return activation.get(problem_type, lambda: outputs.softmax(1))()[0].tolist()


def by_transformers(folder: Path, path: Path) -> list[float]:
    from transformers import AutoImageProcessor, pipeline

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    classify = pipeline("image-classification", model=str(folder), image_processor=processor)
    scores = {row["label"]: row["score"] for row in classify(str(path), top_k=CLASSES)}
    return [scores[f"class {number}"] for number in range(CLASSES)]


JUDGES = {"timm": by_timm, "transformers": by_transformers, "open_clip": by_open_clip, "upernet": by_upernet}


def judge(output: Path) -> None:
    import torch

    torch.set_grad_enabled(False)
    print(
        "| variant | format | million parameters | read back | scores, relative difference |\n|---|---|---:|---|---:|"
    )
    for path in sorted(output.glob("*.json")):
        row = json.loads(path.read_text())
        start = f"| `{row['name']}` | {row['form']} | {row['parameters'] / 1e6:.1f} |"
        if "refused" in row:
            print(f"{start} {row['refused'].partition('. ')[0]} | |")
            continue
        found = JUDGES[row["form"]](path.with_suffix(""), output / "image.png")
        worst = np.abs(np.subtract(found, row["scores"])).max() / np.abs(row["scores"]).max()
        print(f"{start} {'same bits' if row['same_bits'] else 'DIFFERS'} | {worst:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["write", "judge"])
    parser.add_argument("output", type=Path)
    parser.add_argument("--pattern", default="*", help="of the variants' names")
    options = parser.parse_args()
    if options.step == "judge":
        judge(options.output)
        return
    write(options.output, options.pattern)
    write_clips(options.output)
    write_problem_types(options.output)
    write_segmentation_models(options.output)


if __name__ == "__main__":
    main()
