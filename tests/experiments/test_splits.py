"""Means over splits, protocols by data set, layouts of textures: against hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.experiments.cuhk03 import MEASURES, mean_rows
from san_tf.experiments.features import Features, row_of
from san_tf.experiments.flags import parse
from san_tf.experiments.networks import mirror_map_of
from san_tf.experiments.recipe import EvaluationRecipe, Recipe
from san_tf.experiments.recipe_checks import check_recipe
from san_tf.experiments.recipe_files import updated
from san_tf.experiments.targets import protocol_of


def row(method: str, value: float) -> dict:
    return {"method": method, "cmc": [value, 1.0], **dict.fromkeys(MEASURES, value)}


def test_means_and_spread_by_hand():
    splits = [
        [row("SAN", 0.5), row("untrained", 0.1)],
        [row("SAN", 0.7), row("untrained", 0.1)],
        [row("SAN", 0.9), row("untrained", 0.4)],
    ]
    san, untrained = mean_rows(splits)
    assert (san["method"], san["splits"]) == ("SAN", 3)
    # (0.5 + 0.7 + 0.9) / 3; squares of the deviations 0.04 + 0 + 0.04 over 2 = 0.04, its root 0.2.
    assert san["rank1"] == pytest.approx(0.7)
    assert san["spread"]["mAP"] == pytest.approx(0.2)
    assert san["cmc"] == [0.7, 1.0]
    # Deviations -0.1, -0.1, 0.2: 0.06 / 2 = 0.03.
    assert untrained["mAP"] == pytest.approx(0.2)
    assert untrained["spread"]["rank1"] == pytest.approx(0.03**0.5)
    assert mean_rows(splits[:1])[0]["spread"]["rank1"] == 0.0


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("market1501", "market"),
        ("cuhk03", "market"),
        ("cuhk03/detected", "market"),
        ("cuhk03/labeled_classic_07", "cuhk03"),
        ("partial_reid/occluded", "partial"),
        ("custom/names", "market"),
    ],
)
def test_every_data_set_has_its_protocol(name: str, protocol: str):
    assert protocol_of(name) == protocol
    assert protocol_of(name, "cross-camera") == "cross-camera"


def line(places: list[float]) -> np.ndarray:
    return np.array(places, np.float32)[:, None]


def test_the_classic_protocol_by_hand():
    # A query of person 7 at 0 under camera 0. In the gallery person 7 under the other camera at 2 or at 4;
    # under the same camera at 1, which never counts. Person 8 is at 3.
    features = Features(
        line([0]), np.array([7]), np.array([0]),
        line([1, 2, 4, 3]), np.array([7, 7, 7, 8]), np.array([0, 1, 1, 1]),
    )  # fmt: skip
    evaluation = EvaluationRecipe(repeats=4000)
    ((_, classic),) = features.rankings(evaluation, "cuhk03", seed=1)
    # The image at 2 comes before 8, that at 4 behind: each is drawn half of the time.
    assert classic.cmc[0] == pytest.approx(0.5, abs=0.03)
    assert classic.cmc[1] == 1.0
    made = row_of("SAN", classic, "cuhk03/labeled_classic_01")
    assert (made["protocol"], made["repeats"]) == ("cuhk03", 4000)
    assert made["rank1_spread"] == pytest.approx(0.5, abs=0.01)
    # The same seed draws the same galleries.
    ((_, again),) = features.rankings(evaluation, "cuhk03", seed=1)
    assert again.cmc[0] == classic.cmc[0]
    ((_, market),) = features.rankings(evaluation, "market")
    # The whole gallery: 2, 3 (another), 4: precision (1 + 2/3) / 2.
    assert market.cmc[0] == 1.0 and market.mAP == pytest.approx(5 / 6)
    assert "repeats" not in row_of("SAN", market, "market1501")
    ((_, partial),) = features.rankings(evaluation, "partial")
    # No cameras: the image at 1 counts too: (1 + 1 + 3/4) / 3.
    assert partial.mAP == pytest.approx(11 / 12)


def test_images_of_unknown_cameras_are_found():
    unknown = np.array([-1, -1])
    features = Features(line([0, 5]), np.array([1, 2]), unknown, line([1, 5]), np.array([1, 2]), unknown)
    ((_, result),) = features.rankings(EvaluationRecipe())
    assert result.mAP == 1.0
    assert "no camera" in result.notes[0]
    assert features.top(1).indices.tolist() == [[0], [1]]


def test_textures_of_another_layout_are_not_mirrored():
    recipe = updated(Recipe(), {"image_size": [64, 32]}, "x")
    assert mirror_map_of(recipe) is None
    other = updated(recipe, {"texture_layout": "other", "textures": "t", "pit_per_batch": 0}, "x")
    check_recipe(other)
    mirror = mirror_map_of(other)
    assert mirror is not None
    texture = np.arange(64 * 64).reshape(64, 64)
    np.testing.assert_array_equal(texture[mirror[..., 0], mirror[..., 1]], texture)


def test_train_and_test_sets_by_flag_and_by_file():
    _, recipe = parse(
        "x", "", Recipe(), ["train"], ["--train", "market1501", "msmt17/v2", "--test", "veri776"]
    )
    assert recipe.training_sets == ("market1501", "msmt17/v2")
    assert recipe.test_sets == ("veri776",)
    assert Recipe().training_sets == Recipe().test_sets == ("synthetic_reid/tiny",)
    recipe = updated(Recipe(), {"data": {"train": ["a", "b"]}, "test": "c"}, "x.yaml")
    assert (recipe.training_sets, recipe.test_sets) == (("a", "b"), ("c",))
    with pytest.raises(UserError, match="train must be names of data sets"):
        updated(Recipe(), {"train": [3]}, "x.yaml")
