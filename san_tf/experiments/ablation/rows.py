"""Rows of the ablation: each row's parts of SAN, as changes to a common recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from san_tf.errors import UserError
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_files import updated

Textures = Literal["none", "pseudo", "true"]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: name of its folder, and for `--rows`.
        title: title in tables and figures.
        textures: target textures of the decoder: "pseudo", painted by the texture generator from each image;
            "true", those that the people were rendered with; "none" for an encoder without decoder.
        changes: recipe values that differ from the common recipe; all others are the same in every row.
        trained: whether the row trains a network. A row without training does not depend on the seed.
    """

    name: str
    title: str
    textures: Textures = "none"
    changes: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = True

    def recipe(self, common: Recipe, seed: int) -> Recipe:
        """Return the common recipe with this row's changes and the seed of a run."""
        return dataclasses.replace(updated(common, dict(self.changes), f"row {self.name}"), seed=seed)

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """Select the seeds to run from the requested ones; a row without training needs only one."""
        return seeds if self.trained else seeds[:1]


HISTOGRAM, BASELINE, ALL = "histogram", "baseline", "san"
_NO_TR, _NO_PIT = {"lambda_texture_triplet": 0.0}, {"pit_per_batch": 0}
_STARTED = {"start": "texture-generator"}
ROWS: tuple[Row, ...] = (
    Row(HISTOGRAM, "colour histogram", trained=False),
    Row(BASELINE, "baseline", changes=_NO_PIT),
    Row("san_basic", "SAN-basic (+ L_Rec)", "pseudo", _NO_TR | _NO_PIT),
    Row("san_basic_tr", "SAN-basic + L_TR", "pseudo", _NO_PIT),
    Row("san_basic_pit", "SAN-basic + PIT", "pseudo", _NO_TR),
    Row(ALL, "SAN (all)", "pseudo"),
    # Differs from `san_basic_tr` only in the textures. PIT pairs would add true textures of other people,
    # which could cause a difference.
    Row("oracle", "oracle: true textures + L_TR", "true", _NO_PIT),
    # Effect of learning to paint before identities: encoder and decoder start from the generator.
    Row("baseline_started", "baseline, started from SAN-PG", changes=_NO_PIT | _STARTED),
    Row("san_started", "SAN (all), started from SAN-PG", "pseudo", _STARTED),
)


def is_rendered(dataset: str) -> bool:
    """Whether the true textures and body parts of a data set are known.

    Photographs have none, so their rows are without `oracle`, conditions of side and pose, and probes. Their
    conditions are cameras instead.
    """
    return dataset.partition("/")[0] == "synthetic_reid"


def rows_for(dataset: str) -> tuple[Row, ...]:
    """Return the rows that can be trained on a data set."""
    return ROWS if is_rendered(dataset) else tuple(row for row in ROWS if row.textures != "true")


def rows_named(names: Sequence[str], rows: Sequence[Row] = ROWS) -> list[Row]:
    """Return the rows of these names (all without names) in the table's order.

    Raises:
        UserError: there is no row of a name.
    """
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            raise UserError(f"There is no row {name!r}; choose from {', '.join(known)}.")
    return [row for row in rows if not names or row.name in names]


def differing_values(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the values, except the seed, that differ between these recipes.

    Args:
        recipes: nested mappings, from `dataclasses.asdict(recipe)` or the results of a run.

    Example:
        >>> differing_values([asdict(row.recipe(Recipe(), 0)) for row in ROWS])
        ['data.pit_per_batch', 'losses.lambda_texture_triplet']
    """
    columns: dict[str, list[Any]] = {}
    for recipe in recipes:
        for part, values in recipe.items():
            if isinstance(values, Mapping):
                for name, value in values.items():
                    columns.setdefault(f"{part}.{name}", []).append(value)
    return [name for name, values in columns.items() if any(value != values[0] for value in values)]
