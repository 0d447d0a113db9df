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
from convnext_keras.retrieval.vector_types import check_vector_type, numpy_dtype, quantize, vector_width

VECTOR_FILES = (".safetensors", ".parquet")


def model_metadata(model: DualEncoder) -> dict[str, str]:
    """Returns the metadata of the model that computed vectors: its fingerprint, and its weight set or file."""
    known = model.pretrained_info
    source = known and (known.weights_name or known.weights_file)
    return {"model": model.fingerprint(), "weights": str(source or "")}


def write_vectors(
    path: Path, batches: Iterable[tuple[list, np.ndarray]], model: DualEncoder, dtype: str = "float32"
) -> int:
    """Streams vectors to a `.safetensors` or `.parquet` file, atomically; returns their number.

    A `.safetensors` file has the tensor `vectors` `(N, D)` of the type, see `quantize`, and in its metadata `names`, a
    JSON list, `dtype`, and what `model_metadata` says; a `.parquet` file has the columns `name` and `vector`, and the
    same metadata.

    Raises:
        ValueError: If the path ends otherwise, the type is unknown, or pyarrow is missing.
    """
    writers = dict(zip(VECTOR_FILES, (_write_safetensors, _write_parquet), strict=True))
    if path.suffix not in writers:
        raise ValueError(f"The output must end in {' or '.join(writers)}, or be a folder or .lance. Received: {path}")
    check_vector_type(dtype)
    with atomic_path(path) as partial:
        return writers[path.suffix](partial, batches, model, dtype)


SAFETENSORS_TYPES = {"float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8"}


def _write_safetensors(path: Path, batches: Iterable[tuple[list, np.ndarray]], model: DualEncoder, dtype: str) -> int:
    names: list[str] = []
    # The header contains the number of rows, so the data are written to a file of their own first.
    with tempfile.TemporaryFile(dir=path.parent) as rows, path.open("wb") as output:
        for items, vectors in batches:
            names += [str(item) for item in items]
            values = quantize(vectors, dtype)
            rows.write(values.astype(values.dtype.newbyteorder("<")).tobytes())
        shape = [len(names), vector_width(model.embed_dim, dtype)]
        kind = SAFETENSORS_TYPES[numpy_dtype(dtype)]
        tensor = {"dtype": kind, "shape": shape, "data_offsets": [0, rows.tell()]}
        metadata = {**model_metadata(model), "dtype": dtype, "names": json.dumps(names)}
        header = json.dumps({"__metadata__": metadata, "vectors": tensor}).encode()
        header += b" " * (-len(header) % 8)
        output.write(len(header).to_bytes(8, "little") + header)
        rows.seek(0)
        shutil.copyfileobj(rows, output)
    return len(names)


def _write_parquet(path: Path, batches: Iterable[tuple[list, np.ndarray]], model: DualEncoder, dtype: str) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("A .parquet file needs pyarrow: pip install pyarrow. Or write a .safetensors file.") from error
    vector = pyarrow.list_(pyarrow.from_numpy_dtype(numpy_dtype(dtype)), vector_width(model.embed_dim, dtype))
    metadata = {**model_metadata(model), "dtype": dtype}
    schema = pyarrow.schema({"name": pyarrow.string(), "vector": vector}, metadata=metadata)
    count = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for items, vectors in batches:
            values = pyarrow.array(quantize(vectors, dtype).reshape(-1))
            columns = [
                pyarrow.array([str(item) for item in items]),
                pyarrow.FixedSizeListArray.from_arrays(values, vector.list_size),
            ]
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
