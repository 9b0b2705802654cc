"""PyTorch weight files without PyTorch and without running anything that is in them.

A `.pth` file is a pickle beside raw numbers. The unpickler here knows the few names that a tensor
is made of and refuses every other: nothing of a file is ever executed. Where its tensors once lay
(`cuda:0`) does not matter [V32]. Two formats: the legacy one
(five pickles, then the numbers of each storage) and the zip archive.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

from common.errors import DataError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
ZIP_SIGNATURE = b"PK\x03\x04"
DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
"""Storage classes and the little-endian numbers they hold."""
LARGEST_COUNT = 2**33


def read_pth(path: Path) -> dict:
    """Read a file of PyTorch's, legacy or zip: dicts, lists and plain values, tensors as arrays.

    Raises `DataError` where it is missing, truncated, no such file, or asks for code to be run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == ZIP_SIGNATURE
            file.seek(0)
            found = read_zip(file) if is_zip else read_legacy(file)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected a PyTorch weights file (.pth)") from None
    except DataError as refusal:
        raise DataError(f"{path}: {refusal}") from None
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, OSError, KeyError,
        ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError,
        NotImplementedError, RuntimeError,
    ) as failure:  # fmt: skip
        reason = " ".join(str(failure).split())[:120] or type(failure).__name__
        raise DataError(
            f"{path} is no readable PyTorch weights file, or a truncated one ({reason})"
        ) from failure
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}; expected a dict of tensors")
    return found


def read_legacy(file) -> object:
    """Read the legacy format: magic number, protocol, system facts, object, keys, numbers."""
    storages = {}
    for expected, what in ((MAGIC, "magic number"), (PROTOCOL, "protocol")):
        if RestrictedUnpickler(file).load() != expected:
            raise DataError(f"found another {what}; expected a PyTorch weights file")
    facts = RestrictedUnpickler(file).load()
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise DataError("expected little-endian numbers")
    found = RestrictedUnpickler(file, storages).load()
    for key in RestrictedUnpickler(file).load():
        (count,) = struct.unpack("<q", read_exactly(file, 8))
        storage = storages.get(key)
        if storage is None or count != storage.size:
            raise DataError(f"storage {key!r} of {count} numbers is not what the tensors expect")
        storage[...] = np.frombuffer(read_exactly(file, storage.nbytes), storage.dtype)
    return found


def read_zip(file) -> object:
    """Read the zip format: one top folder with data.pkl, data/<key>, version, byteorder."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise DataError(f"found {len(pickles)} data.pkl; expected one")
        folder = pickles[0].partition("/")[0]
        order = f"{folder}/byteorder"
        if order in names and archive.read(order).strip() != b"little":
            raise DataError("expected little-endian numbers")
        storages = {}
        found = RestrictedUnpickler(io.BytesIO(archive.read(pickles[0])), storages).load()
        for key, storage in storages.items():
            with archive.open(f"{folder}/data/{key}") as member:
                storage[...] = np.frombuffer(read_exactly(member, storage.nbytes), storage.dtype)
    return found


def read_exactly(file, count: int) -> bytes:
    """Return so many bytes of a file, not fewer."""
    data = file.read(count)
    if len(data) != count:
        raise EOFError(f"found {len(data)} of {count} bytes")
    return data


class StorageType:
    """What a storage class of the file stands for: a kind of number."""

    def __init__(self, name: str):
        self.dtype = np.dtype(DTYPES[name])


def rebuild_tensor(storage, offset, size, stride, *_):
    """Return the array of a tensor: a strided view of its storage."""
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    if len(size) != len(stride) or min((*size, *stride, offset), default=0) < 0:
        raise DataError("a tensor's size and strides do not fit each other")
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if all(size) and reach > storage.size:
        raise DataError(f"a tensor reaches to number {reach} of a storage of {storage.size}")
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}
"""All that a file may name beside storage classes."""


class RestrictedUnpickler(pickle._Unpickler):
    """Builds dicts, lists, plain values and arrays; every other name in the file is refused.

    `storages` is filled with a storage by key; None where no tensor may occur. The unpickler in
    Python, not that in C, which takes gigabytes for a damaged number of a memo.
    """

    def __init__(self, file, storages: dict | None = None):
        super().__init__(file, encoding="utf-8")
        self._storages = storages

    def find_class(self, module: str, name: str):
        """Return what stands for a name, if it is one of the known."""
        if module == "torch" and name in DTYPES:
            return StorageType(name)
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        raise DataError(f"the file names {module}.{name}; expected tensors and plain values only")

    def persistent_load(self, identifier):
        """Return the storage that an identifier names; its numbers are filled in later."""
        if self._storages is None or not isinstance(identifier, tuple) or len(identifier) < 5:
            raise DataError("found a reference that is no storage")
        kind, type_, key, _, count = identifier[:5]
        if kind != "storage" or not isinstance(type_, StorageType):
            raise DataError("found a reference that is no storage")
        if len(identifier) > 5 and identifier[5] is not None:
            raise DataError("found a view of a storage; expected whole storages")
        if key not in self._storages:
            if not 0 <= int(count) < LARGEST_COUNT:
                raise DataError(f"storage {key!r} claims {count} numbers")
            self._storages[key] = np.zeros(int(count), type_.dtype)
        return self._storages[key]
