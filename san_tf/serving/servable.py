"""Checks a folder of versions before a model server loads it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from san_tf.errors import UserError
from san_tf.trusted import model_path

# Signatures that clients of this package use: (signature, input, dtype, rank).
_SIGNATURES = (("serving_default", "images", "DT_UINT8", 4), ("serving_bytes", "image_bytes", "DT_STRING", 1))
_OUTPUT = "embedding"
# Operations that access files or the network, except those that restore the weights.
_OUTSIDE = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|FromTextFile|Reader(V2)?$|SummaryWriter|PrintV2|Rpc|"
    r"(TFRecord|TextLine|FixedLengthRecord|Csv|Sql|Load|Save|Snapshot)\w*Dataset|DebugIdentity|DebugNumericSummary"
)


def find_versions(model: str | os.PathLike[str]) -> list[int]:
    """Return the versions in a model's folder, ascending; like servers, ignore other names.

    Raises:
        UserError: the folder does not exist, is itself a version or a SavedModel, or holds no version.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name an export's folder, such as saved_models/market.")
    if (folder / "saved_model.pb").is_file():
        above = f" Name {folder.parent}." if folder.name.isdigit() else ""
        raise UserError(
            f"{folder} is a SavedModel, but the folder above is needed, with one folder per version "
            f"(market/1, market/2).{above}"
        )
    # No leading zero: it would be a second name for the same version.
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    versions = sorted(int(name) for name in names if name == str(int(name)) and int(name) > 0)
    if not versions:
        raise UserError(
            f"{folder} holds no version: a folder with a number for its name and a SavedModel inside, as "
            "san_tf.serving.export_encoder writes."
        )
    return versions


def newest_export(model: str | os.PathLike[str]) -> Path:
    """Return the folder of an export.

    Args:
        model: the folder itself, `saved_models/market/1`; that of its versions, for the newest; or the name
            of an encoder that comes along, `people` or `people_scratch`.

    Raises:
        UserError: the folder does not exist, or holds no version.
    """
    folder = model_path(model)
    return folder if (folder / "saved_model.pb").is_file() else folder / str(find_versions(folder)[-1])


def check_version(model: str | os.PathLike[str], version: int) -> None:
    """Check `<model>/<version>`; see `check_export`.

    Raises:
        UserError: it cannot be served.
    """
    check_export(Path(model) / str(version))


def check_export(folder: str | os.PathLike[str]) -> None:
    """Check that plain TensorFlow can serve an export, and that it answers this package's clients.

    The export needs a graph tagged `serve` with the signatures of `export_encoder` (names, dtypes, ranks;
    `embedding` in float32), without operations that call Python or open files, and the file of its weights.
    Only the graph is read. The check does not make a stranger's export safe: it is a program that you must
    trust.

    Args:
        folder: folder of the version; its name does not matter.

    Raises:
        UserError: a requirement is not met; the message says which.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    folder = Path(folder)
    again = "export it again with san_tf.serving.export_encoder."
    try:
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except OSError as error:
        reason = f"{error.strerror} (saved_model.pb)"
        raise UserError(f"{folder} is not a SavedModel: {reason}; {again}") from error
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise UserError(f"{folder}/saved_model.pb cannot be read; {again}") from error
    graphs = [graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not graphs:
        raise UserError(f"{folder} has no graph that is tagged `serve`; {again}")
    if not (folder / "variables" / "variables.index").is_file():
        raise UserError(f"{folder} lacks its weights (variables/variables.index); {again}")
    graph = graphs[0]
    nodes = [*graph.graph_def.node, *(n for f in graph.graph_def.library.function for n in f.node_def)]
    python = sorted({node.op for node in nodes if "PyFunc" in node.op})
    if python:
        raise UserError(f"{folder} calls Python ({python[0]}), which no model server has; {again}")
    outside = sorted({node.op for node in nodes if _OUTSIDE.search(node.op)})
    if outside:
        raise UserError(
            f"{folder} opens files or connections ({outside[0]}), as no encoder of this package does; do not "
            "use it."
        )
    for signature, name, dtype, rank in _SIGNATURES:
        problem = _problem(graph.signature_def, signature, name, dtype, rank)
        if problem:
            raise UserError(f"{folder}: {problem}; {again}")


def _problem(signatures, signature: str, name: str, dtype: str, rank: int) -> str | None:  # type: ignore[no-untyped-def]  # protobuf map
    """What is wrong with a signature, as half a sentence; None if nothing."""
    from tensorflow.core.framework import types_pb2

    if signature not in signatures:
        return f"there is no signature {signature}"
    found = signatures[signature]
    if set(found.inputs) != {name}:
        return f"{signature} takes {sorted(found.inputs)} instead of {name}"
    given = found.inputs[name]
    if types_pb2.DataType.Name(given.dtype) != dtype or len(given.tensor_shape.dim) != rank:
        return f"{name} of {signature} is not {dtype} of rank {rank}"
    if given.tensor_shape.dim[0].size != -1:
        return f"{signature} takes batches of one size only"
    if found.outputs[_OUTPUT].dtype != types_pb2.DT_FLOAT if _OUTPUT in found.outputs else True:
        return f"{signature} does not give `{_OUTPUT}` in float32"
    return None
