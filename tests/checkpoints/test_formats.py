"""Broken and hostile files: one error, at once, for little memory, with nothing else opened."""

import json
import os
import struct
import sys

import h5py
import numpy as np
import psutil
import pytest
import safetensors.numpy

from convnext_keras import WeightsError
from convnext_keras.checkpoints.formats import open_weights

pytestmark = pytest.mark.any_backend

CALLS, EXTRA_BYTES = 200_000, 64e6  # of functions, and of memory


def legacy(path, weight_names=(b"kernel",), layer_names=(b"layer",), fill=None):
    """A file in Keras' legacy form with one layer; `fill(group)` puts the arrays in."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(layer_names) if isinstance(layer_names, tuple | list) else layer_names
        group = file.create_group("layer")
        group.attrs["weight_names"] = np.array(weight_names) if isinstance(weight_names, tuple | list) else weight_names
        (fill or (lambda group: group.create_dataset("kernel", data=np.zeros(3, "float32"))))(group)


def array(data=None, name="kernel", **options):
    """A dataset of a shape, type and storage that no weight has."""

    def fill(group):
        group.create_dataset(name, data=data, **options) if data is not None else group.create_dataset(name, **options)

    return lambda path: legacy(path, fill=fill)


def linked(link):
    def fill(group):
        group["kernel"] = link

    return lambda path: legacy(path, fill=fill)


def virtual(path):
    layout = h5py.VirtualLayout(shape=(3,), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(3,))
    legacy(path, fill=lambda group: group.create_virtual_dataset("kernel", layout))


def unknown_filter(path):
    def fill(group):
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((3,))
        settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        h5py.h5d.create(group.id, b"kernel", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), settings)

    legacy(path, fill=fill)


def named_type(path):
    def fill(group):
        group["kernel"] = np.dtype("f4")

    legacy(path, fill=fill)


def link_to_pipe(path):
    """A link to a pipe that nobody writes to: whoever follows it waits for ever."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.ExternalLink(str(pipe), "/x")


def deep(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("layers")
        group["again"] = group


def linked_root(path):
    with h5py.File(path, "w") as file:
        file["model_weights"] = h5py.SoftLink("/elsewhere")


def unlisted(path):
    legacy(path)
    with h5py.File(path, "r+") as file:
        file["top_level_model_weights"] = h5py.ExternalLink("elsewhere.h5", "/x")


def circle_of_hard_links(path):
    """Creates a group that contains itself, below a listed layer."""

    def fill(group):
        group.create_dataset("kernel", data=np.zeros(3, "float32"))
        group.create_group("inner")["again"] = group

    legacy(path, fill=fill)


def mislabelled(path):
    """float32 data whose attribute says bfloat16, as Keras writes it for two bytes without a type."""
    array(np.zeros(3, "f4"))(path)
    with h5py.File(path, "r+") as file:
        file["layer/kernel"].attrs["dtype"] = "bfloat16"


def mislabelled_keras_3(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros(3, "f4")).attrs["dtype"] = "bfloat16"


HOSTILE_HDF5 = {
    "circle of hard links": circle_of_hard_links,
    "mislabelled bfloat16": mislabelled,
    "mislabelled bfloat16 of Keras 3": mislabelled_keras_3,
    "external link": linked(h5py.ExternalLink("elsewhere.h5", "/x")),
    "soft link": linked(h5py.SoftLink("/layer/other")),
    "linked root": linked_root,
    "link to a pipe": link_to_pipe,
    "unlisted link": unlisted,
    "external data": array(shape=(3,), dtype="f4", external=[("/etc/hostname", 0, 12)]),
    "virtual data": virtual,
    "huge and compressed": array(shape=(2**20, 2**20), dtype="f4", chunks=(1024, 1024), compression="gzip"),
    "just under Keras' limit": array(shape=((1 << 30) - 1024,), dtype="f4", chunks=(1 << 20,), compression="gzip"),
    "never written": array(shape=((1 << 30) - 1024,), dtype="f4"),
    "compressed": array(np.zeros(1000, "f4"), compression="gzip"),
    "unknown filter": unknown_filter,
    "texts": array(np.array(["a"], "O"), dtype=h5py.string_dtype()),
    "ragged": array(shape=(3,), dtype=h5py.vlen_dtype("f4")),
    "compound": array(np.zeros(3, [("a", "f4"), ("b", "f4")])),
    "fixed texts": array(np.array([b"0.5"])),
    "bool": array(np.zeros(3, bool)),
    "complex": array(np.zeros(3, "c8")),
    "nothing": array(h5py.Empty("f4")),
    "named type": named_type,
    "group": lambda path: legacy(path, fill=lambda group: group.create_group("kernel")),
    "repeated weight": lambda path: legacy(path, [b"kernel"] * 2000),
    "repeated layer": lambda path: legacy(path, layer_names=[b"layer"] * 6000),
    "scalar list": lambda path: legacy(path, layer_names=np.bytes_(b"layer")),
    "list of numbers": lambda path: legacy(path, layer_names=[1, 2]),
    "no text": lambda path: legacy(path, [b"\xff\xfe"]),
    "parent": lambda path: legacy(path, [b"../layer/kernel"]),
    "absolute": lambda path: legacy(path, [b"/layer/kernel"]),
    "double slash": lambda path: legacy(path, [b"a//b"]),
    "endless path": lambda path: legacy(path, [b"layer/" * 500 + b"kernel"]),
    "circle": deep,
    "missing": lambda path: legacy(path, [b"bias"]),
}


def safetensors_file(header, data=b"", length=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()

    def write(path):
        path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)

    return write


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE_SAFETENSORS = {
    "endless header": safetensors_file({}, length=2**63 - 1),
    "header of 100 MB": safetensors_file({}, length=99_999_999),
    "overlap": safetensors_file({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "hole": safetensors_file({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
    "trailing": safetensors_file({"a": tensor([1], 0, 4)}, bytes(9)),
    "short": safetensors_file({"a": tensor([4], 0, 16)}, bytes(7)),
    "overflow": safetensors_file({"a": tensor([2**62, 2**62], 0, 4)}, bytes(4)),
    "deep": safetensors_file(b'{"a":' * 100_000, b""),
    "many": lambda path: safetensors_file({f"t{number}": tensor([0], 0, 0) for number in range(300_000)})(path),
    "many but small": safetensors_file({f"{number}": tensor([0], 0, 0) for number in range(11_000)}),
    "a key twice": safetensors_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "not an object": safetensors_file(b'{"a" 1}', b""),
}

OTHER = {
    "pickle": (b"\x80\x04\x95abc", "a pickle"),
    "zip": (b"PK\x03\x04" + bytes(40), "a zip archive"),
    "page": (b"<!DOCTYPE html><html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "nothing": (b"", "neither HDF5"),
    "noise": (b"0123456789" * 10, "neither HDF5"),
    "HDF5 cut short": (b"\x89HDF\r\n\x1a\n" + bytes(50), "broken"),
}


def read_all(path):
    with open_weights(path) as file:
        return {name: file.read(name) for name in file.headers}


def met(path):
    """Opens a file that must be refused, and checks that it was cheap."""
    memory, calls = psutil.Process().memory_info().rss, 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event.endswith("call")

    sys.setprofile(count)
    try:
        with pytest.raises(WeightsError, match=path.name):
            read_all(path)
    finally:
        sys.setprofile(None)
    assert calls < CALLS
    assert psutil.Process().memory_info().rss - memory < EXTRA_BYTES


@pytest.mark.parametrize("case", HOSTILE_HDF5)
def test_hostile_hdf5_files_are_rejected(case, tmp_path):
    HOSTILE_HDF5[case](tmp_path / "hostile.h5")
    met(tmp_path / "hostile.h5")


@pytest.mark.parametrize("case", HOSTILE_SAFETENSORS)
def test_hostile_safetensors_files_are_rejected(case, tmp_path):
    HOSTILE_SAFETENSORS[case](tmp_path / "hostile.safetensors")
    met(tmp_path / "hostile.safetensors")


@pytest.mark.parametrize("case", OTHER)
def test_other_files_are_rejected(case, tmp_path):
    content, message = OTHER[case]
    (tmp_path / "other.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=message), open_weights(tmp_path / "other.safetensors"):
        pass


@pytest.mark.parametrize(("name", "message"), [("missing.h5", "no such file"), (".", "is not a file")])
def test_missing_files_and_folders(name, message, tmp_path):
    with pytest.raises(WeightsError, match=message), open_weights(tmp_path / name):
        pass


@pytest.mark.parametrize("length", [8, 100, 1000, -1])
@pytest.mark.parametrize("form", ["h5", "safetensors"])
def test_truncated_files_are_rejected(form, length, tmp_path):
    path = tmp_path / "cut"
    if form == "h5":
        legacy(path)
    else:
        safetensors.numpy.save_file({"a": np.zeros(1000, "float32")}, path)
    path.write_bytes(path.read_bytes()[:length])
    met(path)


def test_valid_files_return_their_tensors(tmp_path):
    legacy(tmp_path / "good.h5", fill=lambda group: group.create_dataset("kernel", data=np.arange(3, dtype="float32")))
    with open_weights(tmp_path / "good.h5") as file:
        assert file.format == "h5"
        assert {name: (header.shape, header.dtype) for name, header in file.headers.items()} == {
            "layer/kernel": ((3,), "float32")
        }
        np.testing.assert_array_equal(file.read("layer/kernel"), [0, 1, 2])


def test_bfloat16_is_read(tmp_path):
    import ml_dtypes

    safetensors.numpy.save_file({"a": np.ones(3, ml_dtypes.bfloat16)}, tmp_path / "small.safetensors")
    with open_weights(tmp_path / "small.safetensors") as file:
        assert file.headers["a"].dtype == "bfloat16"
        np.testing.assert_array_equal(file.read("a").astype("float32"), 1)


def test_unusual_dtypes_are_listed(tmp_path):
    """A counter of an optimizer is an integer; `loading` refuses it as a weight."""
    array(np.zeros(3, "i8"))(tmp_path / "counter.h5")
    with open_weights(tmp_path / "counter.h5") as file:
        assert file.headers["layer/kernel"].dtype == "int64"
