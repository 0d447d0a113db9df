"""Reading of weight files as named arrays: `.h5` of Keras 2 and 3, `.weights.h5`, and `.safetensors`.

Opening a file reads names, shapes and types only, and refuses everything that a plain list of arrays does not need
(links, filters, chunks, references, external or virtual data), so that a hostile file is met before it costs anything.
The format is recognized by content, not by the file's name. Nothing is ever unpickled.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import h5py.h5o
import ml_dtypes  # Also teaches safetensors the type bfloat16.
import numpy as np
import safetensors

# Ten times the largest published file: ConvNeXt-CLIP XXLarge has 673 tensors and a header of about 90 kB.
MAX_TENSORS = 10_000
MAX_HEADER_BYTES = 2_000_000
MAX_DEPTH = 12
FLOAT_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
CONVERT_HINT = "'convnext-keras convert FILE OUT.safetensors'"

UNSUPPORTED_MAGIC = {
    b"PK\x03\x04": f"a zip archive (a PyTorch checkpoint or a whole .keras model). A checkpoint is converted once by "
    f"{CONVERT_HINT}; a .keras model is opened by keras.saving.load_model",
    b"\x80": f"a pickle, which could run any code when it is opened. Convert it once by {CONVERT_HINT}",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself. Run 'git lfs pull' where it came from",
    b"<": "a web page, not the file itself. Download it again",
}


class WeightsError(ValueError):
    """Error of weights that cannot be used: the file, what was found, what was expected, what to do.

    Whatever raises it has left the model as it was.

    Example:
        >>> from convnext_keras import ConvNeXtTiny, load_weights
        >>> try:
        ...     load_weights(ConvNeXtTiny(weights=None), "no_such_file.h5")
        ... except WeightsError as error:
        ...     print(error)
        no_such_file.h5: no such file.
    """


class TensorSpec(NamedTuple):
    """Shape and type of a tensor in a file."""

    shape: tuple[int, ...]
    dtype: str


class WeightsReader(NamedTuple):
    """Open weight file: `headers` by name in file order, and `read`, which returns the data of one tensor."""

    path: Path
    format: str
    headers: dict[str, TensorSpec]
    read: Callable[[str], np.ndarray]


@contextlib.contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[WeightsReader]:
    """Opens a weight file of any known format for as long as the `with` block lasts.

    Args:
        path: The file. Its extension does not matter.

    Yields:
        A `WeightsReader`. Names are `layer/variable` for Keras' legacy `.h5`, paths for `.weights.h5`, and the
        publisher's own for `.safetensors`.

    Raises:
        WeightsError: If the file is missing, of another kind, broken, or holds anything but plain arrays of numbers.

    Example:
        >>> with open_weights("weights/convnext_mini.digits.safetensors") as file:
        ...     file.headers["head_dense/bias"]
        TensorSpec(shape=(10,), dtype='float32')
    """
    path = Path(path)
    opener = _opener(path)
    with contextlib.ExitStack() as stack:
        with _wrap_errors(path):
            weights = opener(path, stack)
            if len(weights.headers) > MAX_TENSORS:
                raise WeightsError(f"holds {len(weights.headers)} tensors; at most {MAX_TENSORS} are read")
        yield weights


@contextlib.contextmanager
def _wrap_errors(path: Path) -> Iterator[None]:
    """Turns whatever a library raises over a broken file into the one error that names the file."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        MemoryError,
        OverflowError,
    ) as error:
        raise WeightsError(f"{path}: is broken or not a weight file: {error}") from error
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: is broken or not a .safetensors file: {error}") from error


def _opener(path: Path) -> Callable[[Path, contextlib.ExitStack], WeightsReader]:
    if not path.exists():
        raise WeightsError(f"{path}: no such file.")
    if not path.is_file():
        raise WeightsError(f"{path}: is not a file.")
    with path.open("rb") as stream:
        start = stream.read(32)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _open_hdf5
    for magic, description in UNSUPPORTED_MAGIC.items():
        if start.startswith(magic) and not start[8:9] == b"{":
            raise WeightsError(f"{path}: is {description}.")
    if start[8:9] == b"{":
        return _open_safetensors
    raise WeightsError(f"{path}: is neither HDF5 (.h5) nor .safetensors; it starts with {start[:8]!r}.")


def _open_safetensors(path: Path, stack: contextlib.ExitStack) -> WeightsReader:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise WeightsError(f"its header says that it is {length} bytes long; at most {MAX_HEADER_BYTES} are read")
        header = json.loads(stream.read(length), object_pairs_hook=reject_duplicate_keys)
    file: Any = stack.enter_context(safetensors.safe_open(path, framework="numpy"))  # which checks the header
    names = sorted(file.keys(), key=lambda name: header[name]["data_offsets"])  # as they were written
    types = {name: str(header[name]["dtype"]) for name in names}
    headers = {
        name: TensorSpec(tuple(header[name]["shape"]), FLOAT_TYPES.get(kind, kind)) for name, kind in types.items()
    }
    return WeightsReader(path, "safetensors", headers, file.get_tensor)


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object, refused if it has a key twice: programs differ in which of the two they believe."""
    keys: dict[str, Any] = {}
    for key, value in pairs:
        if key in keys:
            raise WeightsError(f"names {key!r} twice")
        keys[key] = value
    return keys


def _open_hdf5(path: Path, stack: contextlib.ExitStack) -> WeightsReader:
    file = stack.enter_context(h5py.File(path, "r"))
    root = _resolve_path(file, "model_weights") if "model_weights" in file.keys() else file  # noqa: SIM118
    if not isinstance(root, h5py.Group):
        raise WeightsError("model_weights is not a group")
    all_datasets = dict(_all_datasets(root))
    legacy = any(name == "layer_names" or name == "layer_names0" for name in root.attrs)
    datasets = dict(_legacy_datasets(root, all_datasets)) if legacy else all_datasets
    size = path.stat().st_size
    headers = {name: _validate_spec(name, dataset, size) for name, dataset in datasets.items()}

    def read(name: str) -> np.ndarray:
        values = datasets[name][()]
        return values.view(ml_dtypes.bfloat16) if headers[name].dtype == "bfloat16" else values

    return WeightsReader(path, "h5" if legacy else "weights.h5", headers, read)


def _legacy_datasets(root: h5py.Group, all_datasets: dict[str, h5py.Dataset]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields the datasets in `layer_names` and each layer's `weight_names`, in this order, as `layer/.../variable`."""
    listed = set()
    for layer in _read_name_list(root, "layer_names"):
        group = _resolve_path(root, layer)
        for weight in _read_name_list(group, "weight_names"):
            name = f"{layer}/{weight}"
            if name not in all_datasets:
                raise WeightsError(f"lists {name!r}, which is not there, or is not an array")
            if name in listed:
                raise WeightsError(f"names the tensor {name!r} twice")
            listed.add(name)
            yield name, all_datasets[name]
    # Keras 3 keeps a model's own variables under another name; a ConvNeXt has none.
    if unexpected := sorted(all_datasets.keys() - listed):
        raise WeightsError(f"holds {unexpected[0]!r}, which its list of layers does not name")


def _read_name_list(group: Any, attribute: str) -> list[str]:
    """Returns the names in an attribute, which Keras cuts into numbered pieces when they are many."""
    if not isinstance(group, h5py.Group):
        raise WeightsError(f"holds an array where a group with {attribute!r} was expected")
    pieces = [attribute] if attribute in group.attrs else []
    while not pieces or (pieces[0] != attribute and f"{attribute}{len(pieces)}" in group.attrs):
        pieces.append(f"{attribute}{len(pieces)}")
    names = []
    for piece in pieces:
        described = group.attrs.get_id(piece)
        if len(described.shape) != 1 or math.prod(described.shape) > MAX_TENSORS:
            raise WeightsError(
                f"{piece!r} must be a list of at most {MAX_TENSORS} names, but has shape {described.shape}"
            )
        values = group.attrs[piece]
        names += [value.decode("utf-8") if isinstance(value, bytes) else value for value in np.asarray(values).tolist()]
    if not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{attribute!r} holds something else than names")
    if len(set(names)) != len(names):
        raise WeightsError(f"{attribute!r} names something twice")
    return names


def _all_datasets(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields every dataset below a group by its path, in file order; rejects a group that contains itself."""
    groups = [("", root, {h5py.h5o.get_info(root.id).addr})]
    count = 0
    while groups:
        prefix, group, above = groups.pop(0)
        for key in map(str, group):
            count += 1
            name = f"{prefix}{key}"
            if count > MAX_TENSORS or name.count("/") > MAX_DEPTH:
                raise WeightsError(f"holds more than {MAX_TENSORS} groups and arrays, or deeper than {MAX_DEPTH}")
            member = _resolve_path(group, key)
            if isinstance(member, h5py.Dataset):
                yield name, member
                continue
            address = h5py.h5o.get_info(member.id).addr
            if address in above:
                raise WeightsError(f"its group {name!r} contains itself")
            groups.append((f"{name}/", member, above | {address}))


def _resolve_path(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Returns the object at a path below a group, followed part by part over hard links only."""
    parts = name.split("/")
    if len(parts) > MAX_DEPTH or any(part in ("", ".", "..") for part in parts):
        raise WeightsError(f"holds the unusable name {name[:80]!r}")
    member: Any = group
    for part in parts:
        link = member.get(part, getlink=True) if isinstance(member, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise WeightsError(f"{name!r} is missing or a link to elsewhere, which is never followed")
        member = member[part]
    if not isinstance(member, h5py.Group | h5py.Dataset):
        raise WeightsError(f"{name!r} is neither a group nor an array")
    return member


def _validate_spec(name: str, dataset: h5py.Dataset, file_bytes: int) -> TensorSpec:
    """Returns shape and type of a dataset that is a plain array stored completely in the file."""
    storage = dataset.id.get_create_plist()
    plain = storage.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) and not storage.get_nfilters()
    if not plain or storage.get_external_count():
        raise WeightsError(f"{name!r} is chunked, compressed, virtual or stored outside; save the file anew with Keras")
    kind = dataset.id.get_type()
    # Keras stores bfloat16 as two bytes without a type, and an attribute that tells it.
    is_bfloat16 = dataset.attrs.get("dtype") == "bfloat16"
    if is_bfloat16 and dataset.dtype != np.dtype("V2"):
        raise WeightsError(f"{name!r} says that it is of bfloat16, but stores {dataset.dtype.name}")
    # Integers are counters of optimizers and random generators, which no model takes as weights.
    numbers = isinstance(kind, h5py.h5t.TypeFloatID | h5py.h5t.TypeIntegerID) or is_bfloat16
    if dataset.shape is None or not numbers:
        raise WeightsError(f"{name!r} is not an array of numbers")
    expected = math.prod(dataset.shape) * dataset.dtype.itemsize
    offset = dataset.id.get_offset() or 0
    if dataset.id.get_storage_size() != expected or offset + expected > file_bytes:
        raise WeightsError(f"{name!r} of shape {dataset.shape} is not stored in full")
    if is_bfloat16:
        return TensorSpec(dataset.shape, "bfloat16")
    if dataset.dtype.byteorder == ">":
        return TensorSpec(dataset.shape, f"big-endian {dataset.dtype.name}")
    return TensorSpec(dataset.shape, dataset.dtype.name)
