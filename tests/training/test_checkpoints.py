"""Checkpoints: everything comes back, nothing is half written, and what does not fit is told in words."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_training_model import TinyModel, build, dataset_at, loss_scale, state

from san_tf import atomic
from san_tf import checkpoints as module
from san_tf.checkpoints import CheckpointFolder, DamagedError, NonFiniteError, read, restore, save
from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3, model_variables


def trained(scaled: bool = False, steps: int = 4) -> TinyModel:
    model = build(scaled=scaled)
    model.fit(dataset_at(0), epochs=1, steps_per_epoch=steps, verbose=0, shuffle=False)
    return model


@pytest.mark.parametrize("scaled", [False, True])
def test_everything_comes_back(tmp_path: Path, scaled: bool) -> None:
    model = trained(scaled)
    path = save(tmp_path / "a.safetensors", model, model.optimizer, 4, {"epoch": 1, "seed": 3})
    fresh = build(scaled=scaled)
    found = restore(path, fresh, fresh.optimizer)
    assert (found.path, found.step, found.extra) == (path, 4, {"epoch": 1, "seed": 3})
    assert int(fresh.optimizer.iterations) == 4
    for one, other in zip(state(model), state(fresh), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    if scaled:
        assert loss_scale(fresh.optimizer) == loss_scale(model.optimizer) > 2.0**15


def test_anyone_can_read_the_file(tmp_path: Path) -> None:
    model = trained()
    path = save(tmp_path / "a.safetensors", model, model.optimizer, 4)
    with safe_open(path, framework="numpy") as file:
        momentum = "tiny_hidden_kernel_momentum" if KERAS_3 else "m/tiny/hidden/kernel"
        assert {"model/tiny/hidden/kernel", f"optimizer/{momentum}"} <= set(file.keys())
        kernel = np.array(model.hidden.kernel)
        np.testing.assert_array_equal(file.get_tensor("model/tiny/hidden/kernel"), kernel)
        assert json.loads(file.metadata()["extra"]) == {}


def test_model_alone(tmp_path: Path) -> None:
    model = trained()
    whole = save(tmp_path / "whole.safetensors", model, model.optimizer, 4)
    alone = save(tmp_path / "alone.safetensors", model, None, 4)
    for path in (whole, alone):
        fresh = build()
        restore(path, fresh)
        np.testing.assert_array_equal(np.array(fresh.head.kernel), np.array(model.head.kernel))
    assert alone.stat().st_size < whole.stat().st_size / 2
    fresh = build()
    with pytest.raises(UserError, match=r"alone\.safetensors .* the file lacks optimizer/"):
        restore(alone, fresh, fresh.optimizer)


def test_running_numbers_of_names_are_forgiven(tmp_path: Path) -> None:
    def network() -> keras.Model:
        image = keras.Input((4,))
        hidden = keras.layers.Dense(3)(keras.layers.Dense(3)(image))
        model = keras.Model(image, hidden)
        model.compile(keras.optimizers.Adam())
        model.optimizer.build(model.trainable_variables)
        return model

    first, second = network(), network()
    assert model_variables(first)[0][0] != model_variables(second)[0][0]
    path = save(tmp_path / "a.safetensors", first, first.optimizer, 0)
    restore(path, second, second.optimizer)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))


@pytest.mark.parametrize(("saved", "asked"), [("depthwise_kernel", "kernel"), ("kernel", "depthwise_kernel")])
def test_depthwise_kernels_go_from_one_keras_to_the_other(tmp_path: Path, saved: str, asked: str) -> None:
    """Keras 2 calls them `depthwise_kernel`, Keras 3 `kernel`."""

    def network(name: str, value: float) -> keras.Model:
        class Depthwise(keras.layers.Layer):
            def build(self, shape: tuple[int, ...]) -> None:
                self.weight = self.add_weight(name=name, shape=(3,))

            def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
                return inputs * self.weight

        inputs = keras.Input((3,))
        model = keras.Model(inputs, Depthwise(name="block1_depthwise")(inputs))
        model.set_weights([np.full(3, value, np.float32)])
        return model

    save(tmp_path / "a.safetensors", network(saved, 2.5), None, 7)
    model = network(asked, 0.0)
    assert restore(tmp_path / "a.safetensors", model, None).step == 7
    np.testing.assert_array_equal(model.get_weights()[0], np.full(3, 2.5))


def test_other_architecture_names_what_differs_and_changes_nothing(tmp_path: Path) -> None:
    model = trained()
    path = save(tmp_path / "a.safetensors", model, model.optimizer, 4)

    wider = build(width=9)
    before = [np.array(v) for v in wider.variables]
    with pytest.raises(UserError) as caught:
        restore(path, wider, wider.optimizer)
    assert str(path) in str(caught.value)
    assert "model/tiny/hidden/kernel is (12, 9) in the model and (12, 8) in the file" in str(caught.value)
    assert " more. Use the recipe it was trained with" in str(caught.value)
    for one, other in zip(before, wider.variables, strict=True):
        np.testing.assert_array_equal(one, np.array(other))

    other = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, name="only")], name="other")
    with pytest.raises(
        UserError, match=r"the file lacks model/.*only/kernel.*the model lacks model/tiny/hidden/kernel"
    ):
        restore(path, other)

    momentum = build()
    momentum.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    with pytest.raises(UserError, match="another architecture or optimizer"):
        restore(path, momentum, momentum.optimizer)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = trained()
    path = save(tmp_path / "a.safetensors", model, model.optimizer, 4)
    content = path.read_bytes()
    for value in (np.nan, np.inf, -np.inf):
        model.head.bias.assign([1.0, value, -value])
        with pytest.raises(NonFiniteError, match="model/tiny/head/bias"):
            save(path, model, model.optimizer, 5)
    assert path.read_bytes() == content
    model.head.bias.assign([3e38, 3e38, 3e38])  # finite, though their sum is not
    save(path, model, model.optimizer, 6)
    assert read(path).step == 6


def test_the_newest_are_kept(tmp_path: Path) -> None:
    model = trained()
    folder = CheckpointFolder(tmp_path / "train", keep=3)
    assert folder.newest() is None
    assert folder.restore_newest(model, model.optimizer) is None
    for step in (8, 16, 99, 100, 12345678, 123456789):
        folder.save(model, model.optimizer, step)
        folder.save_best(model, step)
    assert [path.name for path in folder.paths()] == [
        "step_123456789.safetensors",
        "step_12345678.safetensors",
        "step_00000100.safetensors",
    ]
    newest = folder.newest()
    assert newest is not None
    assert newest.step == 123456789
    assert len(list(folder.folder.iterdir())) == 4  # and the best
    with pytest.raises(UserError, match="keep must be at least 1"):
        CheckpointFolder(tmp_path, keep=0)


def rewritten(path: Path, tensors: dict[str, np.ndarray] | None = None, **metadata: str | None) -> None:
    """A file of somebody else's: other metadata (None takes one out) or arrays, soundly written."""
    with safe_open(path, framework="numpy") as file:
        told = dict(file.metadata())
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    told = {name: text for name, text in (told | metadata).items() if text is not None}
    save_file(arrays | (tensors or {}), path, told)


def flipped(content: bytes, place: int, bit: int = 0x40) -> bytes:
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


DAMAGES = {
    "truncated": lambda c: c[:-1],
    "empty": lambda c: b"",
    "garbage": lambda c: b"x" * 500,
    "header cut": lambda c: c[:20],
    "last half zero": lambda c: c[: len(c) // 2] + bytes(len(c) - len(c) // 2),
    "a block zero": lambda c: c[:-900] + bytes(512) + c[-388:],
    "one bit of an exponent": lambda c: flipped(c, len(c) - 5),
    "another step": lambda c: c.replace(b'"step":"8"', b'"step":"9"'),
    "no step": lambda c: c.replace(b'"step":"8"', b'"step":"x"'),
    "an extra that is not JSON": lambda c: c.replace(b'"extra":"{', b'"extra":"['),
    "the name of a variable": lambda c: c.replace(b"model/tiny/hidden/kernel", b"model/tiny/hidden/kerneL"),
    "no order": lambda c: c.replace(b'"order"', b'"ordeR"'),
    "no digests": lambda c: c.replace(b'"sha256"', b'"sha25b"'),
    "bytes that are not text": lambda c: c.replace(b'"extra"', b'"ex\xff\xfea"'),
    "another format": lambda c: c.replace(b"checkpoint 2", b"checkpoint x"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    model = trained()
    folder = CheckpointFolder(tmp_path, keep=1)
    sound = save(tmp_path / "step_00000004.safetensors", model, model.optimizer, 4)
    newest = save(tmp_path / "step_00000008.safetensors", model, model.optimizer, 8, {"epoch": 2})
    content = newest.read_bytes()
    damaged = DAMAGES[damage](content)
    assert damaged != content
    newest.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        fresh = build()
        found = folder.restore_newest(fresh, fresh.optimizer)
    assert found is not None
    assert found.step == 4
    for one, other in zip(state(model), state(fresh), strict=True):
        np.testing.assert_array_equal(one, other)
    assert str(newest) in caplog.text
    assert "Falling back" in caplog.text
    before = state(fresh)
    with pytest.raises(DamagedError, match=r"step_00000008\.safetensors") as caught:
        restore(newest, fresh, fresh.optimizer)
    assert "\n" not in str(caught.value)
    for one, other in zip(before, state(fresh), strict=True):
        np.testing.assert_array_equal(one, other)
    assert folder.newest() == found
    # Training goes on from there: what it saves stays, though the damaged one has more steps.
    kept = folder.save(fresh, fresh.optimizer, 6)
    assert folder.paths() == [kept]
    assert not sound.exists()


def test_all_damaged_is_a_start_from_the_beginning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = trained()
    folder = CheckpointFolder(tmp_path)
    for step in (4, 8):
        path = folder.save(model, model.optimizer, step)
        path.write_bytes(flipped(path.read_bytes(), len(path.read_bytes()) - 5))
    fresh = build()
    assert folder.restore_newest(fresh, fresh.optimizer) is None
    assert caplog.text.count("Falling back") == 2


def test_checkpoints_without_digests_are_still_read(tmp_path: Path) -> None:
    model = trained()
    path = save(tmp_path / "a.safetensors", model, model.optimizer, 4, {"epoch": 1})
    former = {"format": "san_tf checkpoint 1", "sha256": None, "header": None, "form": None}
    rewritten(path, **former)
    fresh = build()
    found = restore(path, fresh, fresh.optimizer)
    assert (found.step, found.extra) == (4, {"epoch": 1})
    for one, other in zip(state(model), state(fresh), strict=True):
        np.testing.assert_array_equal(one, other)
    for broken in (
        {"step": None},
        {"order": None},
        {"step": "four"},
        {"extra": "[1]"},
        {"order": '{"a": 1}'},
    ):
        rewritten(path, **former)
        rewritten(path, **broken)
        with pytest.raises(DamagedError, match="header is not as it was written"):
            restore(path, fresh, fresh.optimizer)
        save(path, model, model.optimizer, 4, {"epoch": 1})
    with pytest.raises(UserError, match="newer san_tf; upgrade"):
        rewritten(path, format="san_tf checkpoint 3")
        read(path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((12, 8), np.int32), "hidden/kernel is float32 in the model and int32 in the file"),
        (np.full((12, 8), np.nan, np.float32), "NaN or infinity in model/tiny/hidden/kernel"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, values: np.ndarray, words: str) -> None:
    model = trained()
    path = save(tmp_path / "a.safetensors", model, None, 4)
    # In a file without digests, as a stranger may write it.
    former = {"format": "san_tf checkpoint 1", "sha256": None, "header": None}
    rewritten(path, {"model/tiny/hidden/kernel": values}, **former)
    fresh = build()
    before = state(fresh)
    with pytest.raises(UserError, match=words):
        restore(path, fresh)
    for one, other in zip(before, state(fresh), strict=True):
        np.testing.assert_array_equal(one, other)


def test_mutated_checkpoints_are_restored_to_the_bit_or_told_in_a_sentence(tmp_path: Path) -> None:
    """A seeded fuzz; SAN_TF_MUTANTS runs it with more of them."""
    mutants = int(os.environ.get("SAN_TF_MUTANTS", "300"))
    random = np.random.default_rng(int(os.environ.get("SAN_TF_SEED", "0")))
    model = trained()
    path = save(tmp_path / "a.safetensors", model, model.optimizer, 4, {"epoch": 1})
    sound, values = path.read_bytes(), state(model)
    fresh = build()
    refused = 0
    for _ in range(mutants):
        content = bytearray(sound)
        header = 8 + int.from_bytes(sound[:8], "little")
        for _ in range(random.integers(1, 4)):
            place = int(random.integers(0, header if random.random() < 0.7 else len(content)))
            change = random.integers(0, 5)
            if change == 0:
                content[place : place + 1] = bytes([content[place] ^ (1 << int(random.integers(8)))])
            elif change == 1:
                content[place : place + 1] = random.bytes(1)
            elif change == 2:
                del content[place : place + int(random.integers(1, 9))]
            elif change == 3:
                content[place:place] = content[place // 2 : place // 2 + int(random.integers(1, 9))]
            else:
                content[place : place + 8] = bytes(8)
        path.write_bytes(content)
        try:
            found = restore(path, fresh, fresh.optimizer)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
            continue
        assert (found.step, found.extra) == (4, {"epoch": 1})
        for one, other in zip(values, state(fresh), strict=True):
            np.testing.assert_array_equal(one, other)
    assert refused > 0.9 * mutants


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="is not a checkpoint written by this package"):
        read(tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=r"missing\.safetensors cannot be read"):
        read(tmp_path / "missing.safetensors")


def test_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(model, model.optimizer, 4)
    values = state(model)

    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    def full_in_rust(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise module.SafetensorError("I/O error: No space left on device (os error 28)")

    for target, name, failure in ((atomic.os, "fsync", full), (module, "save_file", full_in_rust)):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, failure)
            with pytest.raises(UserError, match=r"disk is full while writing .*step_00000008\.safetensors"):
                folder.save(model, model.optimizer, 8)
        assert [path.name for path in tmp_path.iterdir()] == ["step_00000004.safetensors"]
    fresh = build()
    folder.restore_newest(fresh, fresh.optimizer)
    for one, other in zip(values, state(fresh), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A real file system of 64 KiB; only root can have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_really_full_disk(tiny_disk: Path) -> None:
    model = build(width=200)
    folder = CheckpointFolder(tiny_disk)
    folder.save(model, None, 4)  # some 14 KiB; two more fit, four do not
    with pytest.raises(UserError, match="disk is full while writing"):
        for step in range(5, 9):
            save(tiny_disk / f"more_{step}.safetensors", model, None, step)
    newest = folder.newest()
    assert newest is not None
    restore(newest.path, build(width=200))


def test_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("")
    model = build()
    with pytest.raises(UserError, match="there is a file where a folder is needed"):
        CheckpointFolder(tmp_path / "train").save(model, None, 1)


KILLED_WHILE_SAVING = """
import os, random, signal, sys, time
import numpy as np
from tiny_training_model import build
from san_tf.checkpoints import CheckpointFolder, restore

def child(ready):
    # Each child finds what the one before left, checks all of it, and goes on saving until it is killed.
    model = build(width=1000)
    folder = CheckpointFolder(sys.argv[1])
    step = 0
    for path in reversed(folder.paths()):
        step = restore(path, model, model.optimizer).step
        values = np.concatenate([np.ravel(v.value) for v in (model.hidden.kernel, model.head.bias)])
        if path.name != f"step_{step:08d}.safetensors" or not (values == step).all():
            raise SystemExit(f"{path} holds a mixture")
    os.write(ready, f"{step} {len(folder.paths())}\\n".encode())
    while True:
        step += 1
        model.head.bias.assign(model.head.bias * 0 + step)
        model.hidden.kernel.assign(model.hidden.kernel * 0 + step)
        folder.save(model, model.optimizer, step)
        os.write(ready, b"saved\\n")

# TensorFlow is imported once and has no threads before its first operation, so that forks of it are sound.
for kill in range(int(sys.argv[2])):
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(target)
    os.close(target)
    with os.fdopen(source) as lines:
        print(lines.readline() or "a checkpoint could not be read\\n", end="", flush=True)
        began = time.perf_counter()
        lines.readline()
        # Anywhere within the next two saves.
        time.sleep(random.Random(kill).uniform(0, 2) * (time.perf_counter() - began))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("kills", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path: Path, kills: int) -> None:
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[2])])}
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path / "train"), str(kills)]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert len(lines) == kills
    steps = [int(line.split()[0]) for line in lines]  # a sentence instead of numbers is a failure
    assert steps == sorted(steps)
    assert steps[-1] >= kills - 1  # each saved at least once
    assert {int(line.split()[1]) for line in lines[1:]} <= {0, 1, 2, 3}  # a kill may come before the clearing
    folder = CheckpointFolder(tmp_path / "train")
    model = build(width=1000)
    left = [restore(path, model, model.optimizer).step for path in folder.paths()]
    assert left
    folder.save(model, model.optimizer, max(left) + 1)
    assert not list((tmp_path / "train").glob(".*"))  # what the killed ones left is cleared away
