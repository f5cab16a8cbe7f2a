"""`.weights.h5` files with a record of their network's form and digests of their arrays.

The record is an additional data set `san_tf` in Keras's layout. Files without it (of older versions, or of
Keras) are loaded with a warning that names the assumed form.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np

from san_tf.errors import UserError
from san_tf.forms import Form, check_form, form_of
from san_tf.keras_compat import KERAS_3

SUFFIX = ".weights.h5"
# Exceptions of h5py and Keras for files that are damaged or of another network.
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError)
_RECORD = "san_tf"
_VERSION = 1
_LARGEST_RECORD = 1 << 26
_logger = logging.getLogger(__name__)


class WeightsRecord(NamedTuple):
    """Record of a weights file.

    Attributes:
        form: form of its network, see `san_tf.forms`; None if unknown.
        trunk: whether it holds only the backbone, for encoders of any head and number of identities.
    """

    form: Form | None = None
    trunk: bool = False


def write_record(path: str | os.PathLike[str], form: Form | None, trunk: bool = False) -> None:
    """Add the record to a file that Keras has just written.

    Args:
        path: a `.weights.h5` file.
        form: form of its network.
        trunk: see `WeightsRecord`.
    """
    with h5py.File(path, "a") as file:
        record = {"version": _VERSION, "form": form, "trunk": trunk, "sha256": dict(_digests(file))}
        text = json.dumps(record).encode()
        # The record starts with its own digest.
        content = hashlib.sha256(text).digest() + text
        if _RECORD in file:
            del file[_RECORD]
        file.create_dataset(_RECORD, data=np.frombuffer(content, np.uint8), compression="gzip")


def read_record(path: str | os.PathLike[str]) -> WeightsRecord:
    """Read the record of a weights file and check every array against it.

    Returns:
        The record; an empty one for a file without a record, such as one of Keras.

    Raises:
        UserError: the file is missing, unreadable, or changed since it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The weights file {path} does not exist; check the path.")
    try:
        with h5py.File(path, "r") as file:
            if _RECORD not in file:
                _data_sets(file)
                return _former(file)
            if file[_RECORD].nbytes > _LARGEST_RECORD:
                raise ValueError("its record is too long")
            content = file[_RECORD][()].tobytes()
            text = content[32:]
            record = json.loads(text) if hashlib.sha256(text).digest() == content[:32] else None
            if record is None:
                raise UserError(f"{path} is damaged: its record does not match its digest; copy it again.")
            if record["version"] > _VERSION:
                raise UserError(f"{path} was written by a newer san_tf; upgrade san_tf.")
            digests = dict(_digests(file))
    except UserError:
        raise
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} is not a readable HDF5 weights file ({reason}); copy or save it again."
        ) from error
    for name, stated in record["sha256"].items():
        if digests.pop(name, None) != stated:
            raise UserError(
                f"{path} is damaged: its array {name} is not as it was written; copy or save it again."
            )
    if digests:
        raise UserError(f"{path} was changed after it was written: {next(iter(digests))} was added to it.")
    return WeightsRecord(record["form"], record["trunk"])


def _former(file: h5py.File) -> WeightsRecord:
    """Read the attributes that `python -m san_tf.convert` of older versions wrote, without digests."""
    facts = {name: str(file.attrs[name]) for name in ("stride_on", "pool_padding") if name in file.attrs}
    trunk = bool(file.attrs.get("trunk", False))
    return WeightsRecord({"facts": facts} if facts else None, trunk)


def _digests(file: h5py.File) -> Iterator[tuple[str, str]]:
    """Yield each data set's name and the digest of its dtype, shape, attributes and values."""
    for name, item in _data_sets(file).items():
        attributes = sorted((key, str(value)) for key, value in item.attrs.items())
        digest = hashlib.sha256(repr((item.dtype.str, item.shape, attributes)).encode())
        digest.update(np.ascontiguousarray(item[()]).tobytes())
        yield name, digest.hexdigest()[:32]


def _data_sets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Arrays of a file by name; refuses those that HDF5 would read from other files or fill in."""
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    found.pop(_RECORD, None)
    size = os.fstat(file.id.get_vfd_handle()).st_size
    if any(item.is_virtual or item.external for item in found.values()):
        raise ValueError("it reads arrays from other files")
    if sum(item.nbytes for item in found.values() if item.compression is None) > size:
        raise ValueError("its arrays are larger than the file")
    return found


class KeepsForm:
    """Mixin for a Keras model: its `.weights.h5` files carry its form, and other forms are refused."""

    name: str

    def save_weights(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save as Keras does; a local `.weights.h5` file also gets the network's form."""
        super().save_weights(filepath, *args, **kwargs)  # type: ignore[misc]  # of the Keras model
        if str(filepath).endswith(SUFFIX) and Path(filepath).is_file():
            write_record(filepath, form_of(self))

    def load_weights(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Load as Keras does, but only from undamaged files of this network's form.

        Raises:
            UserError: a `.weights.h5` file is damaged, or of a network of another form or architecture.
            FileNotFoundError: there is no such file.
        """
        if str(filepath).endswith(".keras") and Path(filepath).is_file():
            # The file of a whole model holds its graph, too.
            whole = keras.models.load_model(filepath, compile=False)
            check_form(filepath, form_of(whole), self)
        if not str(filepath).endswith(SUFFIX) or not Path(filepath).is_file():
            return super().load_weights(filepath, *args, **kwargs)  # type: ignore[misc]
        record = read_record(filepath)
        if record.trunk:
            raise UserError(
                f"{filepath} holds only a backbone; load it with build_encoder(weights={str(filepath)!r})."
            )
        own = form_of(self)
        if record.form is None and own is not None:
            _logger.warning("%s", _assumption(filepath, own))
        check_form(filepath, record.form, self)
        try:
            return super().load_weights(filepath, *args, **kwargs)  # type: ignore[misc]
        except LOADING_ERRORS as error:
            raise UserError(
                f"{filepath} does not fit {self.name}: {reason_of(error)}; use a file of the same backbone, "
                "head and number of identities."
            ) from error


def reason_of(error: Exception) -> str:
    """Shorten Keras's message on weights that do not fit."""
    text = " ".join(str(error).split())
    layer = re.search(r"object <\w+ name=([^,>]+)", text)
    shapes = re.search(r"variable\.shape=(\(.*?\)).*?value\.shape=(\(.*?\))", text)
    if layer is None:
        return text[:160]
    if shapes is None:
        return f"it has no weights for the layer {layer[1]}"
    return f"its layer {layer[1]} has weights of shape {shapes[2]} instead of {shapes[1]}"


def _assumption(path: str | os.PathLike[str], form: Form) -> str:
    parts = [part for part in ("encoder", "decoder") if form.get(part)] or [""]
    facts = {k: v for part in parts for k, v in ((form[part] if part else form).get("facts") or {}).items()}
    named = [
        f"{k}={facts[k]!r}" for k in ("stride_on", "pool_padding", "last_stride", "variant") if k in facts
    ]
    return (
        f"{path} does not say what form its network had, like files of older versions; assuming "
        f"{', '.join(named) or 'the form of this network'}."
    )


@keras.saving.register_keras_serializable("san_tf")
class Network(KeepsForm, keras.Model):
    """A functional Keras model whose weights files carry its form; see `KeepsForm`.

    It may have inputs that no output needs: a decoder without skips takes all four stage maps.
    """

    if KERAS_3:
        # Keras revives a functional subclass from its config only if the constructor takes exactly these.
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            for tensor in keras.tree.flatten(args[:1] or kwargs.get("inputs", ())):
                operation = tensor._keras_history.operation
                # Keras 3.12 refuses an input that no layer reads, so a layer outside the graph reads it.
                if not operation._outbound_nodes:
                    keras.layers.Identity(name=f"{operation.name}_unused")(tensor)
            super().__init__(*args, **kwargs)
