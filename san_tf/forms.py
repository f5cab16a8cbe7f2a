"""The form of a network: settings that change its outputs but not its weights' shapes.

For example, a ResNet-50 may have its strides on the 1x1 or on the 3x3 convolutions. The weights have the same
shapes, but the embeddings differ. So weights files and checkpoints contain the form of their network, and a
network of another form refuses them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import keras

from san_tf.errors import UserError
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

Form = dict[str, Any]
# Facts that may differ if a training starts from pretrained weights.
_OF_TRAINED = ("last_stride", "input_shape", "head", "classifier", "stage_shapes", "texture_size")
# Layer settings that do not change a trained network's outputs (names, precision, initialisation, training),
# or that follow from the shapes of weights.
_NO_FUNCTION = frozenset(
    """name trainable dtype autocast sparse ragged optional batch_shape batch_input_shape build_config
    build_input_shape layers input_layers output_layers momentum seed rate noise_shape synchronized fused
    renorm renorm_clipping renorm_momentum virtual_batch_size use_bias filters units""".split()  # noqa: SIM905
)
_NO_FUNCTION_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# The values of an input adapter are weights. Keras 2 and 3 name the axis of a norm differently.
_NO_FUNCTION_OF = {"InputAdapter": {"matrix", "offset"}, "CosineClassifier": {"margin"}}
_NO_FUNCTION_OF |= {f"{kind}Normalization": {"axis"} for kind in ("Batch", "Layer", "Group")}

# Layers without weights that do nothing outside of training: a form leaves them out.
_OF_TRAINING_ALONE = frozenset({"MixStyle"})

_forms: WeakKeyDictionary[keras.Model, Form | None] = WeakKeyDictionary()


def form_of(model: keras.Model) -> Form | None:
    """Return the form of a network as plain values for JSON; None if it is unknown.

    Args:
        model: a functional model, or one with a functional `encoder` and optionally `decoder`.

    Returns:
        For a functional model `facts` by name (such as `stride_on`, `last_stride`, `input_shape`), `layers`
        by name with their settings and sources, and the version of `keras`. For a model of two parts, the
        forms of `encoder` and `decoder`.

    Example:
        >>> form_of(build_encoder("resnet50", weights=None))["facts"]["stride_on"]
        '1x1'
    """
    if model not in _forms:
        _forms[model] = _form_of(model)
    return _forms[model]


def _form_of(model: keras.Model) -> Form | None:
    parts = {part: getattr(model, part, None) for part in ("encoder", "decoder")}
    parts = {part: network for part, network in parts.items() if isinstance(network, keras.Model)}
    if parts:
        return {part: form_of(network) for part, network in parts.items()}
    try:
        config = model.get_config()
        layers = dict(_layers(config["layers"], ""))
        # As JSON reads it back, so that tuples equal lists.
        form: Form = json.loads(json.dumps({"facts": facts_of(model), "layers": layers}))
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        return None  # not functional, or with layers without a config
    return form | {"keras": keras.__version__}


# --- facts ---


def facts_of(model: keras.Model) -> dict[str, Any]:
    """Read from a network's graph the builder's arguments that affect its outputs.

    Args:
        model: an encoder, its trunk, or a decoder. Other functional models have fewer facts.
    """
    layers = {layer.name: layer for layer in model.layers}
    outputs = model.output
    facts: dict[str, Any] = {
        "normalization": [
            [round(float(value), 6) for value in each] for each in (IMAGENET_MEAN, IMAGENET_STD)
        ]
    }
    if isinstance(outputs, dict) and "texture" in outputs:
        facts["variant"] = "official" if "final_linear" in layers else "paper"
        facts["texture_size"] = outputs["texture"].shape[1]
        facts["stage_shapes"] = [list(stage.shape[1:]) for stage in model.inputs[:4]]
        return facts
    if len(model.inputs) == 1:
        facts["input_shape"] = list(model.inputs[0].shape[1:])
    if "conv3_block1_1_conv" in layers and "pool1_pad" in layers:  # a ResNet-50 or -101
        facts["stride_on"] = "1x1" if max(layers["conv3_block1_1_conv"].strides) == 2 else "3x3"
        facts["pool_padding"] = "both" if layers["pool1_pad"].padding[0][0] == 1 else "end"
    stages = outputs.get("stages") if isinstance(outputs, dict) else outputs
    if isinstance(stages, list) and len(stages) == 4:
        facts["last_stride"] = 1 if stages[3].shape[1:3] == stages[2].shape[1:3] else 2
    if "pool" in layers:
        facts["pooling"] = "gem" if type(layers["pool"]).__name__ == "GeneralizedMeanPooling2D" else "avg"
    if "classifier" in layers:
        facts["classifier"] = getattr(layers["classifier"], "kind", "linear")
        facts["head"] = "fc512" if "fc" in layers else "bnneck" if "neck_bn" in layers else "plain"
    return facts


# --- layers ---


def _layers(layers: list[dict[str, Any]], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each layer of a config, including nested ones: a reproducible name, and its settings."""
    names = _numbered_anew(layers)
    skipped: dict[str, str] = {}
    for layer in layers:
        kind = _kind(layer)
        sources = [skipped.get(source, source) for source in _sources(layer.get("inbound_nodes", []))]
        if kind in _OF_TRAINING_ALONE and len(sources) == 1:
            # Layers are listed after their sources.
            skipped[_name(layer)] = sources[0]
            continue
        settings = {
            key: _plain(value)
            for key, value in layer["config"].items()
            if key not in _NO_FUNCTION
            and not key.endswith(_NO_FUNCTION_ENDINGS)
            and key not in _NO_FUNCTION_OF.get(kind, ())
        }
        inner = layer["config"].get("layers")
        name = place + names[_name(layer)]
        if isinstance(inner, list):
            yield from _layers(inner, f"{name}/")
            settings = {}
        yield name, {"kind": kind, **settings, "sources": [names.get(s, s) for s in sources]}


def _kind(layer: Mapping[str, Any]) -> str:
    return str(layer["class_name"]).rpartition(">")[2]


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer.get("name") or layer["config"].get("name", ""))


def _numbered_anew(layers: list[dict[str, Any]]) -> dict[str, str]:
    """Names that do not depend on the process; Keras numbers unnamed layers across a whole process."""
    ranks: dict[str, list[tuple[int, str]]] = {}
    for place, layer in enumerate(layers):
        name = _name(layer)
        if layer["class_name"] == "InputLayer":
            # Keras names the input after a numbered tensor if a model was cut out of another.
            ranks.setdefault("input", []).append((place, name))
            continue
        head, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name, re.DOTALL).groups()  # type: ignore[union-attr]
        ranks.setdefault(head, []).append((int(number or 0), name))
    return {
        name: head if rank == 0 else f"{head}_{rank}"
        for head, group in ranks.items()
        for rank, (_, name) in enumerate(sorted(group))
    }


def _plain(value: Any) -> Any:
    """A setting in a standard form: a list of one becomes its item, a nested config its settings."""
    if isinstance(value, (list, tuple)):
        return _plain(value[0]) if len(value) == 1 else [_plain(item) for item in value]
    if isinstance(value, dict):
        if isinstance(value.get("config"), dict):
            kind = str(value.get("class_name")).rpartition(">")[2]
            return {"kind": kind} | {
                k: _plain(v) for k, v in value["config"].items() if k not in _NO_FUNCTION
            }
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    return value.item() if hasattr(value, "item") and getattr(value, "size", 0) == 1 else str(value)


def _sources(nodes: Any) -> Iterator[str]:
    """Yield the layers on which a layer is called: `["name", 0, 0, ...]`, wherever Keras 2 or 3 puts it."""
    if isinstance(nodes, dict):
        for value in nodes.values():
            yield from _sources(value)
    elif isinstance(nodes, (list, tuple)):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and all(type(n) is int for n in nodes[1:3]):
            yield nodes[0]
        else:
            for value in nodes:
                yield from _sources(value)


# --- comparison ---


def check_form(
    path: str | os.PathLike[str], stated: Form | None, model: keras.Model, start: bool = False
) -> None:
    """Refuse weights of a network with another form.

    Args:
        path: path of the file, for the message.
        stated: form in the file; None is accepted.
        model: model for the weights.
        start: a training starts from these pretrained weights, so head, last stride and image size may
            differ.

    Raises:
        UserError: the forms differ; the message names the difference and both values.
    """
    found = difference(stated, form_of(model), start)
    if found is None:
        return
    what, theirs, ours = found
    layer, _, setting = what.rpartition(".")
    if not layer:
        raise UserError(
            f"{path} holds the weights of a network with {what}={theirs!r}, and {model.name} has "
            f"{what}={ours!r}, which computes something else; build it with {what}={theirs!r}, or use "
            f"weights that were trained with {what}={ours!r}."
        )
    if setting == "kind":
        theirs, ours = (f"a {kind}" if kind else "missing" for kind in (theirs, ours))
        what = f"{layer} is {theirs}, and in {model.name} it is {ours}"
    else:
        what = f"{layer} has {setting}={theirs!r}, and in {model.name} it has {setting}={ours!r}"
    raise UserError(
        f"{path} holds the weights of a network whose layer {what}, which computes something else; build the "
        "network as that of the file was, or use weights of this one."
    )


def difference(stated: Any, own: Any, start: bool = False) -> tuple[str, Any, Any] | None:
    """Return the first difference of two forms with both values; None if they agree.

    Only settings that both forms contain are compared: another version of Keras has other layer settings, and
    a converted file does not contain an image size. With the same version of Keras, the layers must also be
    the same.

    Args:
        stated: value from a file, of any type; anything but a form is ignored.
        own: result of `form_of`.
        start: see `check_form`.
    """
    if not isinstance(stated, dict) or not isinstance(own, dict):
        return None
    for part in ("encoder", "decoder"):
        found = difference(stated.get(part), own.get(part), start)
        if found is not None:
            return found
    theirs, ours = (form.get("facts") or {} for form in (stated, own))
    for name in ours:
        if name in theirs and theirs[name] != ours[name] and not (start and name in _OF_TRAINED):
            return name, theirs[name], ours[name]
    return None if start else _layer_difference(stated, own)


def _layer_difference(stated: Form, own: Form) -> tuple[str, Any, Any] | None:
    theirs, ours = (form.get("layers") for form in (stated, own))
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return None
    same_keras = stated.get("keras") == own.get("keras")
    for name, settings in ours.items():
        other = theirs.get(name)
        if not isinstance(other, dict):
            if same_keras:
                return f"{name}.kind", None, settings["kind"]
            continue
        if other.get("kind") != settings["kind"] and not same_keras:
            continue
        for key, value in settings.items():
            if key in other and other[key] != value and (same_keras or key != "sources"):
                return f"{name}.{key}", other[key], value
    surplus = [name for name in theirs if name not in ours] if same_keras else []
    return (f"{surplus[0]}.kind", theirs[surplus[0]].get("kind"), None) if surplus else None
