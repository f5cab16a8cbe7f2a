"""A program that kills an experiment's stages at random moments, starts them again, and compares the ends.

    python killed_stages.py FOLDER KILLS SEED [STAGE ...]

In FOLDER it makes the smallest run there is once, undisturbed. Then, for each stage, it starts the same
command on a copy, kills it (SIGKILL) after a random time, starts it again, and so on until KILLS kills have
met a living process; whenever one comes to its end, what it left is compared with the undisturbed run, bit
for bit. TensorFlow is imported once and each start is a fork of that process, in which no operation has been
run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tiny_runs
from safetensors.numpy import load_file

from san_tf.experiments import synthetic
from san_tf.experiments.stages import evaluate, export, prepare, pseudo_textures, texture_generator, train
from san_tf.models.backbones import BACKBONES, Backbone

STAGES = ("prepare", "texture-generator", "train", "export")
# Imported here, so that a fork does not spend its life on it.
MODULES = (evaluate, export, prepare, pseudo_textures, texture_generator, train)
FLAGS = (
    "--dataset=synthetic_reid/smoke",
    "--pit=pit/smoke",
    "--backbone=four_layers",
    "--image_size",
    "64",
    "32",
    "--sketch=8",
    "--identities_per_batch=4",
    "--images_per_identity=2",
    "--pit_per_batch=4",
    "--generator_batch=8",
    "--generator_epochs=3",
    "--epochs=4",
    "--steps_per_epoch=30",
    "--warmup_epochs=0.5",
    "--save_every=0.3",
)


def start(workdir: Path, data: Path, *arguments: str) -> int:
    """The process id of a start of the experiment."""
    child = os.fork()
    if child:
        return child
    log = os.open(workdir.parent / f"{workdir.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        synthetic.main([f"--workdir={workdir}", f"--data_dir={data}", *FLAGS, *arguments])
    except SystemExit as leaving:
        os._exit(int(leaving.code or 0))
    finally:
        os._exit(1)


def watched(stage: str, workdir: Path, data: Path) -> Path:
    """Where a stage leaves its work as it goes."""
    if stage == "prepare":
        return data
    return workdir / {"export": "saved_model"}.get(stage, "checkpoints")


def finish(child: int) -> int:
    """Wait for the end, and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> list[str]:
    """Names of all that lies in a folder, whole or half written; a name is new with each write."""
    return sorted(str(path) for path in folder.rglob("*"))


def kill_after(child: int, seconds: float, watched: Path | None) -> bool:
    """Kill a child after a time; False if it had come to its end, with exit code 0, before.

    Args:
        child: of `start`.
        seconds: from now on, or from when the folder `watched` has changed.
        watched: where the stage leaves its work; None does not wait for it.
    """
    before = None if watched is None else contents(watched)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if watched is not None and contents(watched) == before:
            deadline = time.monotonic() + seconds
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if status:
                raise SystemExit(f"a start ended with {os.waitstatus_to_exitcode(status)}")
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return finish(child) == -signal.SIGKILL


def checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """All of the newest checkpoint: weights, moving statistics, the optimizer's slots."""
    newest = max(folder.glob("step_*.safetensors"))
    return {newest.name: np.zeros(0), **load_file(newest)}


def left_by(stage: str, workdir: Path, data: Path) -> dict[str, np.ndarray]:
    """What a finished stage is compared by."""
    if stage == "prepare":
        return {
            str(file.relative_to(data)): np.frombuffer(file.read_bytes(), np.uint8)
            for file in sorted(data.rglob("*.tfrecord*"))
        }
    if stage == "export":
        versions = sorted(path.name for path in (workdir / "saved_model").iterdir())
        # Keras exports a model's variables in the order of a set, so they are compared without their numbers.
        exported = tf.train.load_checkpoint(
            workdir / "saved_model" / versions[-1] / "variables" / "variables"
        )
        names = [name for name in exported.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
        values = sorted((exported.get_tensor(name) for name in names), key=lambda value: value.tobytes())
        return {" ".join(versions): np.zeros(0)} | {str(n): value for n, value in enumerate(values)}
    if stage == "texture-generator":
        scores = json.loads((workdir / "texture_generator.json").read_text())
        found = checkpoint(workdir / "checkpoints" / "texture-generator")
        return found | {"l1": np.array(scores["l1"])} | weights(workdir, "texture_generator")
    parts = ("san_encoder", "san_decoder", "baseline_encoder")
    found = {
        f"{method}/{name}": value
        for method in ("san", "baseline")
        for name, value in checkpoint(workdir / "checkpoints" / "train" / method).items()
    }
    return found | {name: value for part in parts for name, value in weights(workdir, part).items()}


def weights(workdir: Path, part: str) -> dict[str, np.ndarray]:
    """The arrays of a `.weights.h5` file."""
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(workdir / "weights" / f"{part}.weights.h5") as file:
        file.visititems(
            lambda name, item: (
                found.update({f"{part}/{name}": item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """Names of what is not equal, bit for bit."""
    names = {**one, **other}
    return [n for n in names if n not in one or n not in other or one[n].tobytes() != other[n].tobytes()]


def main(folder: Path, kills: int, seed: int, stages: list[str]) -> None:
    """Run; exit with a sentence at the first difference."""
    BACKBONES["four_layers"] = Backbone(tiny_runs.four_layers, imagenet=False, decoder="light")
    whole, data = folder / "undisturbed", folder / "data"
    seconds: dict[str, float] = {}
    before: dict[str, Path] = {}
    for stage in ("prepare", "texture-generator", "pseudo-textures", "train", "evaluate", "export"):
        if whole.exists():
            before[stage] = Path(shutil.copytree(whole, folder / f"before_{stage}"))
        began = time.monotonic()
        if code := finish(start(whole, data, f"--stage={stage}")):
            raise SystemExit(f"the undisturbed {stage} ended with {code}")
        seconds[stage] = time.monotonic() - began
    chance = random.Random(seed)
    for stage in stages:
        expected = left_by(stage, whole, data)
        met = ends = starts = 0
        workdir, place = folder / f"killed_{stage}", folder / f"data_{stage}" if stage == "prepare" else data
        while met < kills or starts:
            if not starts and stage in before:
                shutil.copytree(before[stage], workdir)
            starts += 1
            child = start(workdir, place, f"--stage={stage}")
            # Every third anywhere, the start included; the others when something was written, or is being.
            anywhere = chance.random() < 1 / 3
            moment = chance.uniform(0.05, 1.1) * seconds[stage] if anywhere else chance.expovariate(1.0)
            if met < kills and kill_after(
                child, moment, None if anywhere else watched(stage, workdir, place)
            ):
                met += 1
                continue
            if met >= kills and (code := _ended(child)):
                raise SystemExit(f"{stage} ended with {code} after {met} kills; see {workdir}.log")
            if unequal := differences(expected, left_by(stage, workdir, place)):
                raise SystemExit(f"{stage}, after {met} kills: {unequal[:5]} differ")
            ends, starts = ends + 1, 0
            shutil.rmtree(workdir)
            if stage == "prepare":
                shutil.rmtree(place)
        print(f"{stage}: {met} kills, {ends} ends, each the undisturbed one bit for bit", flush=True)


def _ended(child: int) -> int:
    try:
        return finish(child)
    except ChildProcessError:  # it had ended while it was waited for
        return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(STAGES))
