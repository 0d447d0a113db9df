"""Runs what docs/guides/export.md shows in C++ and JavaScript, and compares the answers with those of the Keras model.

    npm install --prefix FOLDER onnxruntime-web
    KERAS_BACKEND=torch python scripts/run_other_languages.py --packages FOLDER/node_modules

Needs g++ (the headers and libraries are OpenVINO's own wheel), Node and Chromium. What is absent is named and left out.
"""

import argparse
import functools
import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import keras
import numpy as np
import openvino

from convnext_keras import create_model, export
from convnext_keras.export.verification import TOLERANCES

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "export.md"


def block(language: str, word: str) -> str:
    """The block of the guide in a language that has a word in it."""
    found = re.findall(rf"^```{language}\n(.+?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return next(text for text in found if word in text)


def in_cpp(folder: Path) -> list[float]:
    """Returns the outputs of the C++ program for OpenVINO."""
    lines = block("cpp", "openvino").splitlines()
    includes = [line for line in lines if line.startswith("#include")]
    printing = 'for (int place = 0; place < 10; ++place) std::printf("%.9g\\n", probabilities[place]);'
    body = [*(line for line in lines if line not in includes), printing]
    (folder / "digits.cpp").write_text("\n".join(["#include <cstdio>", *includes, "int main() {", *body, "}"]))
    wheel = Path(openvino.__file__).parent
    library = next((wheel / "libs").glob("libopenvino.so*"))
    command = ["g++", "-std=c++17", "digits.cpp", "-o", "digits", f"-I{wheel / 'include'}", str(library)]
    subprocess.run([*command, f"-Wl,-rpath,{wheel / 'libs'}"], cwd=folder, check=True)
    printed = subprocess.run(["./digits"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return [float(line) for line in printed.split()]


def in_node(folder: Path) -> list[float]:
    """Returns the outputs of onnxruntime-web in Node."""
    lines = ['import * as ort from "onnxruntime-web";', block("js", "ort.")]
    (folder / "digits.mjs").write_text("\n".join([*lines, "console.log(JSON.stringify([...probabilities.data]));"]))
    printed = subprocess.run(["node", "digits.mjs"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return json.loads(printed)


class Pages(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, with scripts and WebAssembly as browsers want them, and no log."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, format, *args):
        del format, args


def in_a_browser(folder: Path) -> list[float]:
    """Returns the outputs of onnxruntime-web in Chromium."""
    script = '<script src="node_modules/onnxruntime-web/dist/ort.min.js"></script>'
    lines = ["<pre></pre>", script, '<script type="module">', block("js", "ort.")]
    shown = "document.querySelector('pre').textContent = JSON.stringify([...probabilities.data]);"
    (folder / "index.html").write_text("\n".join([*lines, shown, "</script>"]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = ["chromium", "--headless", "--no-sandbox", "--virtual-time-budget=60000", "--dump-dom"]
    address = f"http://127.0.0.1:{server.server_port}/"
    page = subprocess.run([*command, address], check=True, capture_output=True, text=True).stdout
    server.shutdown()
    return json.loads(re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)[1])


PROGRAMS = {"g++": ("C++", in_cpp), "node": ("Node", in_node), "chromium": ("a browser", in_a_browser)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, help="node_modules with onnxruntime-web")
    options = parser.parse_args()
    model = create_model("convnext_mini.digits")
    wanted = np.asarray(keras.ops.convert_to_numpy(model(np.zeros((1, 32, 32, 3), "float32"))))[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("digits.xml", "digits.onnx"):
            export.export(model, folder / file)
        if options.packages:
            (folder / "node_modules").symlink_to(options.packages.absolute())
        for program, (title, run) in PROGRAMS.items():
            if not shutil.which(program) or (program != "g++" and not options.packages):
                print(f"{title}: left out, {program} or its packages are absent")
                continue
            difference = np.abs(np.array(run(folder)) - wanted).max()
            print(f"{title}: differs by {difference:.1e}")
            if not difference < TOLERANCES["float32"]:
                raise SystemExit(f"{title} computes something else.")


if __name__ == "__main__":
    main()
