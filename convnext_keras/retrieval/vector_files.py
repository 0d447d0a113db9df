"""Files of vectors: what they hold, what they say of the model that made them, and how they are streamed."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors

from convnext_keras.checkpoints import WeightsError
from convnext_keras.clip.encoder import DualEncoder
from convnext_keras.files import atomic_path

VECTOR_FILES = (".safetensors", ".parquet")


def model_metadata(model: DualEncoder) -> dict[str, str]:
    """Returns the metadata of the model that computed vectors: its fingerprint, and its weight set or file."""
    known = model.pretrained_info
    source = known and (known.weights_name or known.weights_file)
    return {"model": model.fingerprint(), "weights": str(source or "")}


def write_vectors(path: Path, batches: Iterable[tuple[list, np.ndarray]], model: DualEncoder) -> int:
    """Streams vectors to a `.safetensors` or `.parquet` file, atomically; returns their number.

    A `.safetensors` file has the tensor `vectors` `(N, D)` float32, and in its metadata `names`, a JSON list, and what
    `model_metadata` says; a `.parquet` file has the columns `name` and `vector`, and the same metadata.

    Raises:
        ValueError: If the path ends otherwise, or pyarrow is missing.
    """
    writers = dict(zip(VECTOR_FILES, (_write_safetensors, _write_parquet), strict=True))
    if path.suffix not in writers:
        raise ValueError(f"The output must end in {' or '.join(writers)}, or be a folder or .lance. Received: {path}")
    with atomic_path(path) as partial:
        return writers[path.suffix](partial, batches, model)


def _write_safetensors(path: Path, batches: Iterable[tuple[list, np.ndarray]], model: DualEncoder) -> int:
    """Returns the header needs the number of rows, so the data go to a file of their own first."""
    names: list[str] = []
    with tempfile.TemporaryFile(dir=path.parent) as rows, path.open("wb") as output:
        for items, vectors in batches:
            names += [str(item) for item in items]
            rows.write(vectors.astype("<f4").tobytes())
        shape = [len(names), model.embed_dim]
        tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, rows.tell()]}
        metadata = {**model_metadata(model), "names": json.dumps(names)}
        header = json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()
        header += b" " * (-len(header) % 8)
        output.write(len(header).to_bytes(8, "little") + header)
        rows.seek(0)
        shutil.copyfileobj(rows, output)
    return len(names)


def _write_parquet(path: Path, batches: Iterable[tuple[list, np.ndarray]], model: DualEncoder) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("A .parquet file needs pyarrow: pip install pyarrow. Or write a .safetensors file.") from error
    vector = pyarrow.list_(pyarrow.float32(), model.embed_dim)
    schema = pyarrow.schema({"name": pyarrow.string(), "vector": vector}, metadata=model_metadata(model))
    count = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for items, vectors in batches:
            columns = [pyarrow.array([str(item) for item in items]), pyarrow.array(vectors.tolist(), vector)]
            writer.write_table(pyarrow.table(columns, schema=schema))
            count += len(items)
    return count


def read_vectors(file: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Returns the vectors of one file, and what it says of the model that made them."""
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            return opened.get_tensor("vectors"), opened.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{file}: is broken or not a file of vectors: {error}") from error
