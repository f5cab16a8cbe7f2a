"""Model cards: a preset's origin, licence, training data and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from san_tf.errors import UserError
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

UNTRAINED = "None: the network starts from random weights. It knows nothing until it is trained."
UNMEASURED = "Not measured."


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Statements of a model card, each of one or two sentences.

    Attributes:
        description: what the network is.
        licence: licence of the weights, as an SPDX name.
        weights: which parts are trained, and where their weights come from.
        training_data: data that the weights were trained on.
        scores: scores in percent by name: `{"Market-1501 rank-1": 94.1}`; empty if nothing was measured.
        measured: how the scores were measured: protocol, split, seeds, re-ranking.
    """

    description: str
    licence: str = "apache-2.0"
    weights: str = UNTRAINED
    training_data: str = "None."
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measured: str = UNMEASURED

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> ModelCard:
        """Make a card from a plain dict.

        Args:
            values: statements by name.
            source: where they come from, for messages.

        Raises:
            UserError: a name is unknown, or a statement has the wrong type.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in names:
                raise UserError(f"{source}: a model card has no {name!r}; it has {', '.join(sorted(names))}.")
            if name == "scores":
                fits = isinstance(value, Mapping) and all(
                    isinstance(key, str) and isinstance(score, (int, float)) and not isinstance(score, bool)
                    for key, score in value.items()
                )
            else:
                fits = isinstance(value, str)
            if not fits:
                kind = "numbers by name" if name == "scores" else "text"
                raise UserError(f"{source}: {name} of a model card must be {kind}, not {value!r}.")
        return cls(**({"description": "A network of san_tf."} | dict(values)))

    def as_dict(self) -> dict[str, Any]:
        """Return the statements as plain values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "scores": dict(self.scores)
        }


def normalization_config() -> dict[str, Any]:
    """Return the package's normalisation of images (`san_tf.normalization`) as plain values."""
    return {
        "channels": "RGB",
        "range": [0, 255],
        "mean": [round(float(value), 6) for value in IMAGENET_MEAN],
        "std": [round(float(value), 6) for value in IMAGENET_STD],
    }


def render(title: str, card: ModelCard, encoder: Mapping[str, Any], decoder: bool) -> str:
    """Write a model card as Markdown with the header that the hub reads.

    Args:
        title: name of the preset.
        card: its statements.
        encoder: arguments of `build_encoder`.
        decoder: whether the preset includes the decoder.

    Returns:
        The text of the preset's `README.md`.
    """
    height, width = encoder["input_shape"][:2]
    normalization = normalization_config()
    scores = "\n".join(f"| {name} | {score:g} |" for name, score in card.scores.items())
    table = f"| | % |\n|---|---|\n{scores}\n\n" if scores else ""
    call = "SAN" if decoder else "build_encoder"
    identities = encoder["num_classes"]
    classifier = f"{identities} training identities." if identities > 1 else "without its classifier."
    return f"""---
license: {card.licence}
library_name: san_tf
pipeline_tag: image-feature-extraction
tags:
- person-re-identification
- keras
---

# {title}

{card.description}

```python
from san_tf.models import {call}

model = {call}.from_preset("...")  # this folder, or hf://user/name
```

## Weights

{card.weights}

Licence: {card.licence}.

## Input

RGB crops of one person, resized to {height} x {width} (height x width). `san_tf.normalization.normalize`
divides pixels of 0-255 by 255, subtracts the mean {normalization["mean"]} and divides
by the deviation {normalization["std"]}.

Backbone `{encoder["backbone"]}`, head `{encoder["head"]}`, last stride {encoder["last_stride"]},
{classifier}

## Training data

{card.training_data}

## Scores

{table}{card.measured}

## Not for

Mass surveillance, tracking people without their consent or a legal basis, or decisions about a person that
no human checks. Error rates differ between cameras and groups of people: measure them where you deploy.
"""
