"""What a GPU does with SAN: one command, planned for fifteen minutes, one JSON file to send.

    python benchmarks/gpu.py [--minutes 15] [--batch 64] [--out results/gpu.json]
    python benchmarks/gpu.py --miniature    # a small network, on the CPU too: tries the script in a minute

It measures, each in a process of its own:

- the training step of SAN with ResNet-50, decoder and all four losses at 256 x 128 pixels in float32 without
  TF32, TF32, bfloat16 and float16, without and with XLA: images/s, seconds of the first step, peak memory,
  and the loss of each of fifty steps against that of float32, from the same weights and on the same batch;
- the same step in PyTorch, where it is installed, in the same arithmetics, and compiled;
- inference at batch 1, 32 and 256: the exported SavedModel, and PyTorch;
- the input pipeline: images/s alone, and the share of a training step that waits for it.

A row that fails (out of memory, no units for bfloat16) is recorded with its reason, and the rest goes on. The
file is written after each row, so an interrupted run keeps what it measured.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import multiprocessing
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contestants import RESULTS, memory, new_parser, processor_name
from rich import box
from rich.console import Console
from rich.table import Table

from san_tf.atomic import atomic_file
from san_tf.start import import_tensorflow

ARITHMETICS = ("float32", "TF32", "bfloat16", "float16")
# Compute capability of NVIDIA GPUs from which each arithmetic has units of its own.
NEEDED = {"float32": (0, 0), "TF32": (8, 0), "bfloat16": (8, 0), "float16": (7, 0)}
POLICIES = {"float32": "float32", "TF32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
PACKAGES = ("tensorflow", "keras", "numpy", "torch")
CLASSES = 751
# Steps and calls that are not timed: kernels are compiled and chosen in them.
WARM_UP = 3
# Longest time of a row in seconds; XLA compiles a ResNet-50 with decoder for one to two minutes.
LONGEST = 300.0
Found = dict[str, Any]


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        backbone: of `build_encoder`.
        image: height and width in pixels; the texture has `height` texels a side.
        widths: of the decoder.
        batch: images of a training step, four per identity.
        steps: training steps whose losses are recorded.
        inference: batch sizes of inference.
        calls: timed calls of each.
        images: JPEGs of the input pipeline.
        pytorch: whether PyTorch takes part; its programs have the full size only.
        xla: whether XLA takes part.
    """

    backbone: str = "resnet50"
    image: tuple[int, int] = (256, 128)
    widths: tuple[int, int, int, int, int] = (512, 256, 64, 32, 16)
    batch: int = 64
    steps: int = 50
    inference: tuple[int, ...] = (1, 32, 256)
    calls: int = 30
    images: int = 2000
    pytorch: bool = True
    xla: bool = True


MINIATURE = Size("thin_resnet", (64, 32), (16, 8, 8, 4, 4), 8, 5, (1, 2), 3, 24, False, False)


class RefusedError(Exception):
    """A row makes no sense on this device; the message is the reason."""


# --- what runs in a process of its own --------------------------------------------------------------------


def training(arithmetic: str, xla: bool, size: Size) -> Found:
    """Train on one batch; the weights and the batch are the same in every arithmetic.

    Args:
        arithmetic: of `ARITHMETICS`.
        xla: whether to compile the step with XLA.
        size: see `Size`.

    Returns:
        `losses` of each step, `first_step_s`, `step_ms` (median), `images_per_second`, `peak_GB`.

    Raises:
        RefusedError: the device has no units for the arithmetic.
    """
    with _arithmetic(arithmetic) as tf:
        model = _model(size, xla)
        batches = iter(tf.data.Dataset.from_tensors(_batch(size)).repeat())
        model.make_train_function()

        def step() -> float:
            model.reset_metrics()  # or the loss would be the mean over the steps so far
            return float(model.train_function(batches)["loss"])

        losses, seconds = _repeated(step, size.steps)
        return {**_speed(losses, seconds, size.batch), "peak_GB": _peak(tf)}


def waiting(arithmetic: str, size: Size) -> Found:
    """Train on JPEGs and textures that the input pipeline decodes; and run the pipeline alone.

    Returns:
        `pipeline_images_per_second` (alone); `images_per_second` of training, and the same
        `from_memory`, without the pipeline; `share_of_waiting`, the part of a step's time that only the
        pipeline's batches cost (below 0 where other programs disturbed the measurement).
    """
    from input_pipeline import make_jpegs, make_textures

    with _arithmetic(arithmetic):
        from san_tf.data.pipeline import train_dataset
        from san_tf.data.records import Records

        records = Records.from_columns(
            make_jpegs(size.images, size.image), np.arange(size.images) // 4 + 1
        ).with_textures(make_textures(size.images, size.images))
        dataset = train_dataset(records, size.batch // 4, 4, size.image, size.image[0])
        steps = max(WARM_UP + 2, min(size.steps, size.images // size.batch))
        batches = iter(dataset)
        _, alone = _repeated(lambda: next(batches)["image"].shape[0], steps)
        model = _model(size, False)
        model.make_train_function()
        held = iter(dataset.take(1).cache().repeat())
        # The same kind of batch from memory first, then from the pipeline.
        seconds = []
        for source in (held, batches):
            step = functools.partial(model.train_function, source)
            _, taken = _repeated(lambda step=step: float(step()["loss"]), steps)  # type: ignore[misc]
            seconds.append(float(np.mean(taken[WARM_UP:])))
        return {
            "pipeline_images_per_second": size.batch / float(np.mean(alone[WARM_UP:])),
            "images_per_second_from_memory": size.batch / seconds[0],
            "images_per_second": size.batch / seconds[1],
            "share_of_waiting": 1 - seconds[0] / seconds[1],
        }


def inference(arithmetic: str, size: Size) -> Found:
    """Time the exported SavedModel, from uint8 images to embeddings.

    Returns:
        By batch size: `ms` (median of the calls) and `images_per_second`; and `start_s`, `peak_GB`.
    """
    with _arithmetic(arithmetic) as tf:
        from san_tf.serving.encoder_export import export_encoder

        with tempfile.TemporaryDirectory() as folder:
            export_encoder(_encoder(size), folder, size.image, warmup_batches=())
            began = time.perf_counter()
            loaded = tf.saved_model.load(f"{folder}/1")
        served = loaded.signatures["serving_default"]
        found = _by_batch(lambda images: served(images=tf.constant(images))["embedding"].numpy(), size)
        return {**found, "start_s": time.perf_counter() - began, "peak_GB": _peak(tf)}


def pytorch_training(arithmetic: str, compiled: bool, size: Size) -> Found:
    """Train PyTorch's SAN on one batch: one joint backward pass, as ours; see `training`.

    16-bit arithmetics store maps as channels last, which is PyTorch's fast way.
    """
    torch = _torch(arithmetic)
    from training_step_pytorch import PyTorchStep

    half = arithmetic in ("bfloat16", "float16")
    batch = {key: value for key, value in _batch(size).items() if key != "texture_weight"}
    step = PyTorchStep(
        batch, CLASSES, 0, joint=True, channels_last=half, device="cuda",
        autocast=arithmetic if half else None, compiled=compiled,
    )  # fmt: skip
    losses, seconds = _repeated(step, size.steps)
    return {
        **_speed(losses, seconds, size.batch),
        "peak_GB": torch.cuda.max_memory_allocated() / 1e9,
        "parameters": step.parameters,
    }


def pytorch_inference(arithmetic: str, compiled: bool, size: Size) -> Found:
    """Time PyTorch's encoder, from uint8 images to embeddings; see `inference`."""
    torch = _torch(arithmetic)
    from training_step_pytorch import Encoder

    network = Encoder(1).to("cuda", memory_format=torch.channels_last).eval()
    if compiled:
        network = torch.compile(network)

    def embed(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to("cuda").permute(0, 3, 1, 2).float() / 127.5 - 1
            return torch.nn.functional.normalize(network(pixels)[0]).cpu().numpy()

    return {**_by_batch(embed, size), "peak_GB": torch.cuda.max_memory_allocated() / 1e9}


def machine() -> Found:
    """Versions, processor, and GPUs with driver and memory."""
    import_tensorflow()
    from san_tf.check.trial_steps import findings, gpus
    from san_tf.serving.encoder_export import git_commit

    return {
        "findings": dict(findings()),
        "gpus": [str(details.get("device_name", "unknown")) for details in gpus()],
        "nvidia_smi": _nvidia_smi(),
        "commit": git_commit(),
    }


def _nvidia_smi() -> list[str]:
    fields = "name,driver_version,memory.total,power.limit,clocks.max.sm"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


@contextmanager
def _arithmetic(name: str) -> Iterator[Any]:
    """TensorFlow, set up for an arithmetic; as it was afterwards."""
    import_tensorflow()
    import tensorflow as tf

    from san_tf.check.trial_steps import gpus
    from san_tf.training.precision import precision_scope

    found = [details.get("compute_capability") for details in gpus()]
    if not found and name == "TF32":
        raise RefusedError("TF32 is an arithmetic of NVIDIA GPUs, and TensorFlow finds no GPU here.")
    if found:
        _check_units(name, min(capability or (0, 0) for capability in found))  # type: ignore[type-var]
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(name != "float32")
    try:
        with precision_scope(POLICIES[name]):
            yield tf
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _check_units(arithmetic: str, capability: Any) -> None:
    needed = NEEDED[arithmetic]
    if tuple(capability) < needed:
        raise RefusedError(
            f"The GPU has compute capability {'.'.join(map(str, capability))}; units for {arithmetic} come "
            f"with {'.'.join(map(str, needed))}."
        )


def _torch(arithmetic: str) -> Any:
    import torch

    if not torch.cuda.is_available():
        raise RefusedError("This PyTorch finds no GPU.")
    _check_units(arithmetic, torch.cuda.get_device_capability())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arithmetic != "float32"
    return torch


def _encoder(size: Size) -> Any:
    from san_tf.models.encoder import build_encoder

    strides = "3x3" if size.backbone == "resnet50" else "1x1"
    return build_encoder(
        size.backbone, (*size.image, 3), CLASSES, head="fc512", stride_on=strides, weights=None, seed=0
    )


def _model(size: Size, xla: bool) -> Any:
    from san_tf.models.decoder import build_decoder
    from san_tf.models.san import SAN
    from san_tf.training.optimizers import build_optimizer

    encoder = _encoder(size)
    shapes = [stage.shape for stage in encoder.output["stages"]]
    decoder = build_decoder(
        shapes, size.widths, skips=size.backbone == "resnet50", texture_size=size.image[0], seed=1
    )
    model = SAN(encoder, decoder, loss_weights=(1.0, 1.0, 1.0, 1.0))
    model.compile(optimizer=build_optimizer(), jit_compile=xla)
    return model


def _batch(size: Size) -> dict[str, np.ndarray]:
    rng, texels = np.random.default_rng(0), size.image[0]
    return {
        "image": rng.standard_normal((size.batch, *size.image, 3), np.float32),
        "label": np.repeat(np.arange(size.batch // 4), 4).astype(np.int32),
        "texture": rng.uniform(-1, 1, (size.batch, texels, texels, 3)).astype(np.float32),
        "texture_weight": np.ones(size.batch, np.float32),
    }


def _repeated(job: Callable[[], Any], times: int) -> tuple[list[Any], list[float]]:
    """Results and seconds of each run."""
    results, seconds = [], []
    for _ in range(times):
        began = time.perf_counter()
        results.append(job())
        seconds.append(time.perf_counter() - began)
    return results, seconds


def _speed(losses: Sequence[float], seconds: Sequence[float], batch: int) -> Found:
    """The figures of a training step; the first steps, which compile, are left out of its time."""
    if not np.isfinite(losses).all():
        raise RefusedError(f"The loss of step {int(np.argmin(np.isfinite(losses))) + 1} is not a number.")
    step = float(np.median(seconds[WARM_UP:]))
    return {
        "first_step_s": seconds[0],
        "step_ms": 1000 * step,
        "images_per_second": batch / step,
        "losses": [float(loss) for loss in losses],
    }


def _by_batch(embed: Callable[[np.ndarray], np.ndarray], size: Size) -> Found:
    found: Found = {}
    for number in size.inference:
        images = np.random.default_rng(0).integers(0, 256, (number, *size.image, 3), np.uint8)
        _, seconds = _repeated(lambda images=images: embed(images), WARM_UP + size.calls)  # type: ignore[misc]
        call = float(np.median(seconds[WARM_UP:]))
        found[str(number)] = {"ms": 1000 * call, "images_per_second": number / call}
    return found


def _peak(tf: Any) -> float:
    """Peak memory in GB: the GPU's as TensorFlow counts it, without one this process's."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9
    return memory() / 1000


# --- rows --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of the result: its name, the function that measures it, and the function's arguments."""

    name: str
    measure: Callable[..., Found]
    arguments: tuple[Any, ...]


def plan(size: Size) -> list[Row]:
    """Return all rows, the most important ones first."""
    rows = [Row(f"step, {name}", training, (name, False, size)) for name in ARITHMETICS]
    inferred = ("float32", "TF32") if size.xla else ("float32",)  # exports are in float32
    rows += [Row(f"inference, {name}", inference, (name, size)) for name in inferred]
    rows.append(Row("input pipeline", waiting, ("float32", size)))
    torch = size.pytorch and importlib.util.find_spec("torch") is not None
    if torch:
        rows += [Row(f"step, {name}, PyTorch", pytorch_training, (name, False, size)) for name in ARITHMETICS]
        rows.append(Row("inference, TF32, PyTorch", pytorch_inference, ("TF32", False, size)))
    if size.xla:
        rows += [Row(f"step, {name}, XLA", training, (name, True, size)) for name in ARITHMETICS]
    if torch:
        rows += [
            Row(f"step, {name}, PyTorch compiled", pytorch_training, (name, True, size))
            for name in ("bfloat16", "TF32")
        ]
        rows.append(Row("inference, TF32, PyTorch compiled", pytorch_inference, ("TF32", True, size)))
    return rows


def here(measure: Callable[..., Found], arguments: Sequence[Any], seconds: float = LONGEST) -> Found:
    """Measure a row in this process; return what it found, or `failed` with the reason.

    Args:
        measure: the row's function.
        arguments: its arguments.
        seconds: not used; `alone` ends a row after them.
    """
    try:
        return measure(*arguments)
    except RefusedError as error:
        return {"failed": str(error)}
    except Exception as error:  # a library may fail in any way, and the other rows shall go on
        first = (str(error).strip().splitlines() or [""])[0][:200]
        return {"failed": f"{type(error).__name__}: {first}"}


def alone(measure: Callable[..., Found], arguments: Sequence[Any], seconds: float = LONGEST) -> Found:
    """Measure a row in a process of its own, which frees its memory and may crash; see `here`.

    Args:
        measure: the row's function, of a module.
        arguments: its arguments.
        seconds: time after which the row is ended and counts as failed.
    """
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(other, measure, tuple(arguments)), daemon=True)
    process.start()
    other.close()  # so that the end of the process is noticed
    try:
        if not own.poll(seconds):
            return {"failed": f"It took longer than {seconds:.0f} s."}
        return own.recv()
    except EOFError:
        process.join()
        return {"failed": f"The process ended with exit code {process.exitcode}."}
    finally:
        process.kill()
        process.join()


def _send(pipe: Connection, measure: Callable[..., Found], arguments: tuple[Any, ...]) -> None:
    pipe.send(here(measure, arguments))


def compare_losses(rows: dict[str, Found]) -> None:
    """Add `loss_difference` to each training row of ours: relative to float32 without XLA, step by step.

    float16 skips its first steps until its loss scale fits: weights and loss stay as they are. These steps
    are counted in `skipped_steps`, and the comparison begins at the last of them, or skipping would pass for
    error.
    """
    reference = rows.get("step, float32", {}).get("losses")
    if reference is None:
        return
    for name, row in rows.items():
        if "losses" in row and "PyTorch" not in name:
            losses = row["losses"]
            skipped = next((i for i in range(len(losses) - 1) if losses[i + 1] != losses[i]), len(losses) - 1)
            own, exact = np.array(losses[skipped:]), np.array(reference[: len(losses) - skipped])
            off = np.abs(own - exact) / np.abs(exact)
            row["skipped_steps"] = skipped
            row["loss_difference"] = {"first": float(off[0]), "largest": float(off.max()), "steps": len(off)}


def show(rows: dict[str, Found], console: Console) -> None:
    """Print the rows."""
    table = Table(box=box.MARKDOWN)
    for heading in ("", "images/s", "ms", "first step s", "peak GB", "losses off: first", "largest"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        if "failed" in row:
            continue
        if "step_ms" in row:
            off = row.get("loss_difference", {})
            table.add_row(
                name, f"{row['images_per_second']:.1f}", f"{row['step_ms']:.1f}",
                f"{row['first_step_s']:.1f}", f"{row['peak_GB']:.2f}",
                *(f"{off[key]:.1e}" if off else "" for key in ("first", "largest")),
            )  # fmt: skip
        for batch, one in row.items():
            if isinstance(one, dict) and "ms" in one:
                table.add_row(f"{name}, batch {batch}", f"{one['images_per_second']:.1f}", f"{one['ms']:.2f}")
        if "share_of_waiting" in row:
            table.add_row(f"{name}, alone", f"{row['pipeline_images_per_second']:.1f}")
            table.add_row(
                f"{name}, {100 * row['share_of_waiting']:.0f} % waited", f"{row['images_per_second']:.1f}"
            )
    console.print(table)
    for name, row in rows.items():
        if "failed" in row:
            console.print(f"{name} failed: {row['failed']}", markup=False)


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the JSON file."""
    parser = new_parser(__doc__, rounds=0)
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="rows that would begin later are left out"
    )
    parser.add_argument("--batch", type=int, help="images of a training step (default: 64)")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json", help="file to write")
    parser.add_argument("--miniature", action="store_true", help="a small network, on the CPU too")
    arguments = parser.parse_args(argv)
    size = MINIATURE if arguments.miniature else Size()
    if arguments.batch is not None:
        size = size._replace(batch=arguments.batch)
    if size.batch < 8 or size.batch % 4:
        parser.error(f"--batch must be a multiple of 4 and at least 8, not {size.batch}")
    console = Console(width=140)
    began = time.monotonic()
    run = here if arguments.miniature else alone
    described = run(machine, ())
    if not arguments.miniature and not described.get("gpus"):
        reason = described.get("failed", "TensorFlow finds no GPU here")
        parser.exit(1, f"{reason}; python -m san_tf.check says why, and --miniature runs on a CPU.\n")
    rows: dict[str, Found] = {}
    results = {
        "machine": {"processor": processor_name(), **described},
        "versions": versions(),
        "size": size._asdict(),
        "rows": rows,
    }
    for number, row in enumerate(planned := plan(size), start=1):
        left = 60 * arguments.minutes - (time.monotonic() - began)
        console.print(f"[{number}/{len(planned)}] {row.name}", markup=False)
        if left <= 0:
            rows[row.name] = {"failed": f"It was left out, because {arguments.minutes:g} minutes were over."}
        else:
            rows[row.name] = run(row.measure, row.arguments, min(LONGEST, max(left, 60.0)))
        compare_losses(rows)
        results["minutes"] = round((time.monotonic() - began) / 60, 2)
        with atomic_file(arguments.out) as temporary:
            Path(temporary).write_text(json.dumps(results, indent=2) + "\n")
    show(rows, console)
    console.print(f"All of it is in {arguments.out}; please send that file.", markup=False)


if __name__ == "__main__":
    main()
