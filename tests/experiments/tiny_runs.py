"""Runs of the benchmarks' experiments that take seconds: drawn images, four layers, one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tensorflow as tf

from san_tf.experiments import cuhk03, custom, duke, market, msmt17, partial_reid, veri776
from san_tf.experiments.experiment import Stage
from san_tf.models.backbones import BACKBONES, Backbone
from san_tf.models.layer_factory import LayerFactory, Tensor
from san_tf.models.resnet import ResNetForm
from san_tf.visualization import style

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets"
LIGHT = ROOT / "experiments" / "market" / "light.yaml"
PUBLISHED = ("market1501", "dukemtmc_reid", "cuhk03", "msmt17", "partial_reid", "veri776")
MODULES = (market, duke, cuhk03, msmt17, partial_reid, veri776, custom)
TINY = (
    f"--config={LIGHT}",
    "--check_counts=false",
    "--backbone=four_layers",
    "--pit=pit/smoke",
    "--identities_per_batch=2",
    "--images_per_identity=2",
    "--steps_per_epoch=1",
    "--epochs=1",
    "--generator_batch=8",
    "--generator_epochs=1",
    "--sketch=0",
    "--panels=0",
)


def run_tiny(module: ModuleType, *flags: str) -> int:
    """Run an experiment at the smallest size and return its exit code."""
    size = ["64", "32"]
    if module is veri776:
        size = ["64", "64", "--lambda_reconstruction=0", "--lambda_texture_triplet=0"]
    with in_seconds(), pytest.raises(SystemExit) as leaving:
        module.main([*TINY, "--image_size", *size, *flags])
    return int(leaving.value.code or 0)


@contextlib.contextmanager
def small() -> Iterator[None]:
    """Offer a network of four layers, and draw small figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "four_layers", Backbone(four_layers, imagenet=False, decoder="light"))
        patch.setattr(style, "DPI", 20)
        yield


@contextlib.contextmanager
def in_seconds() -> Iterator[None]:
    """Make a run a matter of seconds: small, and without compilation.

    Compiling the graph of a single step takes most of the time of such runs. What is exported is compiled as
    ever, and `test_synthetic` compiles every stage.
    """
    work = Stage.work

    def eager_work(stage: Stage, experiment: object) -> None:
        tf.config.run_functions_eagerly(stage.name != "export")
        try:
            work(stage, experiment)  # type: ignore[arg-type]
        finally:
            tf.config.run_functions_eagerly(False)

    with small(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "work", eager_work)
        yield


def four_layers(image: Tensor, last_stride: int, _: ResNetForm, factory: LayerFactory) -> list[Tensor]:
    """The smallest network with four stages, of strides 4, 8, 16 and 16."""
    stages = [factory.conv_bn(image, 8, 3, 4, name="stage1")]
    for number, stride in enumerate((2, 2, last_stride), 2):
        stages.append(factory.conv_bn(stages[-1], 8, 3, stride, name=f"stage{number}"))
    return stages
