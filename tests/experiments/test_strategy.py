"""--strategy: what is refused before anything starts, and who does which stage."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.experiments.ablation import __main__ as ablation
from san_tf.experiments.experiment import WITH_TEXTURES, Experiment, Stage
from san_tf.experiments.flags import Options, parse
from san_tf.experiments.ownership import fingerprint
from san_tf.experiments.recipe import DataRecipe, EvaluationRecipe, LossRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import check_shares, run_stages
from san_tf.training.cluster import Cluster
from san_tf.training.distribution import Distribution
from san_tf.training.run_directory import RunDirectory

STAGES = ("prepare", "train")


def test_multiworker_wants_tf_config_before_tensorflow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=r"TF_CONFIG, which is not set: TF_CONFIG='\{"):
        parse("synthetic", "", Recipe(), STAGES, ["--strategy", "multiworker"])
    config = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert (
        parse("synthetic", "", Recipe(), STAGES, ["--strategy", "multiworker"])[0].strategy == "multiworker"
    )


def test_no_strategy_reads_no_tf_config(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    assert parse("synthetic", "", Recipe(), STAGES, [])[0].strategy is None
    assert parse("synthetic", "", Recipe(), STAGES, ["--strategy", "mirrored"])[0].strategy == "mirrored"


@pytest.mark.parametrize("value", ["tpu", "mirror"])
def test_other_strategies_are_refused(value: str):
    with pytest.raises(UserError, match="strategy"):
        parse("synthetic", "", Recipe(), STAGES, ["--strategy", value])


def test_the_ablation_takes_no_strategy(capsys):
    with pytest.raises(SystemExit) as leaving:
        ablation.main(["--strategy", "mirrored"])
    assert leaving.value.code == 2
    assert "leave --strategy out" in capsys.readouterr().err


def distribution_of(replicas: int) -> Distribution:
    return Distribution(types.SimpleNamespace(num_replicas_in_sync=replicas))


def experiment(
    folder: Path, recipe: Recipe, distribution: Distribution, stage: tuple[str, ...] = ()
) -> Experiment:
    options = Options(workdir=str(folder), stage=list(stage))
    return Experiment("here", recipe, options, RunDirectory(folder), distribution=distribution)


@pytest.mark.parametrize(
    ("recipe", "stages", "named"),
    [
        (Recipe(data=DataRecipe(identities_per_batch=15)), STAGES, "identities_per_batch is 15"),
        (Recipe(data=DataRecipe(pit_per_batch=3)), STAGES, "pit_per_batch is 3"),
        (Recipe(model=ModelRecipe(jit_compile=True)), STAGES, "--jit_compile does not work"),
        (Recipe(model=ModelRecipe(jit_compile=True)), ("texture-generator",), "--jit_compile does not work"),
    ],
)
def test_what_cannot_be_shared_is_told_before_the_first_stage(tmp_path: Path, recipe, stages, named: str):
    with pytest.raises(UserError, match=named):
        check_shares(experiment(tmp_path, recipe, distribution_of(2)), stages)
    check_shares(experiment(tmp_path, recipe, Distribution()), stages)


def test_stages_that_share_nothing_are_not_asked(tmp_path: Path):
    odd = Recipe(
        data=DataRecipe(identities_per_batch=15, pit_per_batch=3), model=ModelRecipe(jit_compile=True)
    )
    check_shares(experiment(tmp_path, odd, distribution_of(2)), ["prepare", "evaluate"])
    # Without decoder no pairs join the batches.
    alone = LossRecipe(lambda_reconstruction=0.0, lambda_texture_triplet=0.0)
    check_shares(
        experiment(tmp_path, Recipe(data=DataRecipe(pit_per_batch=3), losses=alone), distribution_of(2)),
        STAGES,
    )


@dataclasses.dataclass(frozen=True)
class Recorded(Stage):
    """A stage that notes who did it."""

    done: list[str] = dataclasses.field(default_factory=list)

    def work(self, experiment: Experiment) -> None:
        self.done.append(self.name)


@dataclasses.dataclass(frozen=True)
class Told(Distribution):
    """A worker whose chief has these stages done already."""

    recipe: float = fingerprint(Recipe())
    skipped: tuple[bool, ...] = ()
    asked: list[str] = dataclasses.field(default_factory=list)

    def of_chief(self, values) -> np.ndarray:
        self.asked.append("recipe" if not self.asked else "stage")
        if self.asked == ["recipe"]:
            return np.array([self.recipe])
        return np.array([float(not self.skipped[self.asked.count("stage") - 1])])

    def wait(self) -> None:
        self.asked.append("wait")


def test_the_others_train_and_leave_the_rest_to_the_chief(tmp_path: Path):
    done: list[str] = []
    stages = [Recorded(stage.name, stage.parts, done) for stage in WITH_TEXTURES]
    cluster = Cluster(("a:1", "b:1"), 1)
    told = Told(cluster=cluster, skipped=(False, True, False, False, False, False, False))
    run_stages(experiment(tmp_path, Recipe(), told), stages)
    # The chief has a texture generator already, so nobody trains one.
    assert done == ["train"]
    assert told.asked == ["recipe", "stage", "wait", "stage"] + ["stage", "wait"] * 5
    assert not list(tmp_path.iterdir()), "a worker that is not the chief writes nothing"


def test_a_worker_with_another_recipe_than_the_first_is_refused(tmp_path: Path):
    # Its own run directory may be empty where the first worker's has a recipe.
    told = Told(cluster=Cluster(("a:1", "b:1"), 1))
    with pytest.raises(UserError, match="differs from that of the first worker"):
        run_stages(experiment(tmp_path, Recipe(seed=1), told), WITH_TEXTURES)
    # Each machine has its own places.
    elsewhere = Recipe(data=DataRecipe(backgrounds="/here"), evaluation=EvaluationRecipe(rerank=True))
    assert fingerprint(elsewhere) == fingerprint(Recipe())
