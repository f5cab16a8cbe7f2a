"""Speed and memory of the training step of networks that a CPU can train, compared with PyTorch.

    python benchmarks/small_networks.py [--threads 2] [--rounds 5] [--backbones thin_resnet ...]
        [--sizes 128x64 256x128] [--parts encoder decoder] [--profile]

A step is 64 images, head `bnneck`, identity and triplet loss, 443 identities; the part `decoder` adds the
light decoder with its two losses. PyTorch runs the same layers in its default layout, with channels last, and
compiled with channels last. The script stops unless both have as many parameters and, with the same weights,
the same embeddings and textures. GFLOP are PyTorch's count for both. Each contestant is its own process on
the same cores, warmed up, and they take turns, so that other programs slow all alike; ratios are medians over
the rounds. The script needs `pip install torch`, prints a table, and updates its rows in
`results/small_networks.json`, so that it can be run network by network.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from contestants import (
    RESULTS,
    Contestant,
    MissingError,
    chosen_cores,
    median_ratio,
    memory,
    new_parser,
    processor_name,
    timed,
    with_range,
    write_results,
)
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

BACKBONES = ("thin_resnet", "efficientnet_lite0", "osnet_x0_25", "osnet_x0_5")
SIZES = {"128x64": (128, 64), "256x128": (256, 128)}
PARTS = ("encoder", "decoder")
BATCH, IDENTITIES = 64, 443
OURS, PYTORCH = "san_tf", "PyTorch"
CONTESTANTS = (OURS, PYTORCH, "PyTorch channels last", "PyTorch compiled")
# Mean difference of embeddings and textures, relative to their mean absolute value. A new decoder paints
# with a tanh that is saturated nearly everywhere, so a single value between -1 and 1 may differ by more.
TOLERANCE = 1e-4


def prepare(name: str, backbone: str, size: str, part: str, threads: int) -> Callable[[Any], Any]:
    """Return what answers `step` (seconds), `parameters`, `peak` (MB), `product` and `profile`.

    Ours also answers `weights` and `outputs`, PyTorch `gflop`, and `outputs` with our weights.

    Args:
        name: of `CONTESTANTS`.
        backbone: of `BACKBONES`.
        size: of `SIZES`.
        part: of `PARTS`.
        threads: threads of the library.
    """
    batch = make_batch(SIZES[size], part == "decoder")
    step: Any
    if name == OURS:
        from training_step_tensorflow import TensorFlowStep

        step = TensorFlowStep(batch, IDENTITIES, threads, backbone=backbone)
    else:
        from small_networks_pytorch import SmallStep

        plain, compiled = name == PYTORCH, name.endswith("compiled")
        step = SmallStep(backbone, batch, IDENTITIES, threads, not plain, compiled)
    if name.endswith("compiled"):
        try:
            step()
        except Exception as error:  # the compiler of a machine may fail in any way
            raise MissingError((str(error).strip().splitlines() or [repr(error)])[0][:200]) from error

    def answer(question: Any) -> Any:
        if question == "step":
            return timed(step)[0]
        if question == "peak":
            return memory()
        if question == "product":
            return step.product_rate(2048)
        if question == "outputs":
            return step.outputs(batch["image"])
        if isinstance(question, dict):
            return step.outputs(question)
        found = getattr(step, question)
        return found() if callable(found) else found

    return answer


def make_batch(size: tuple[int, int], textures: bool) -> dict[str, np.ndarray]:
    """Return a batch of noise, four images per identity; its content does not affect the time.

    Args:
        size: height and width in pixels.
        textures: whether to add textures, for a decoder.
    """
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.standard_normal((BATCH, *size, 3), np.float32),
        "label": np.repeat(np.arange(BATCH // 4), 4).astype(np.int32),
    }
    if textures:
        batch["texture"] = rng.uniform(-1, 1, (BATCH, size[0], size[0], 3)).astype(np.float32)
        batch["texture_weight"] = np.ones(BATCH, np.float32)
    return batch


def compare(there: dict[str, Contestant]) -> None:
    """Stop unless ours and PyTorch's networks are the same."""
    if PYTORCH not in there:
        return
    ours, theirs = there[OURS], there[PYTORCH]
    numbers = [contestant.ask("parameters") for contestant in (ours, theirs)]
    if numbers[0] != numbers[1]:
        raise SystemExit(f"Ours has {numbers[0]} parameters, PyTorch's {numbers[1]}.")
    weights = ours.ask("weights")
    weights.pop("input_adapter", None)
    wanted, found = ours.ask("outputs"), theirs.ask(weights)
    for name, value in wanted.items():
        difference = float(np.abs(value - found[name]).mean() / np.abs(value).mean())
        if not difference <= TOLERANCE:
            raise SystemExit(f"With the same weights the {name} differs by {difference:.1e}.")


def contest(backbone: str, size: str, part: str, cores: list[int], rounds: int) -> dict[str, Any]:
    """Run all contestants in turns.

    Args:
        backbone: of `BACKBONES`.
        size: of `SIZES`.
        part: of `PARTS`.
        cores: cores to use.
        rounds: number of rounds, of two steps each.
    """
    there: dict[str, Contestant] = {}
    rows: dict[str, Any] = {}
    for name in CONTESTANTS:
        try:
            there[name] = Contestant(prepare, name, backbone, size, part, len(cores), cores=cores)
        except MissingError as error:
            if name == OURS:
                raise
            rows[name] = {"left_out": str(error)}
    compare(there)
    for contestant in there.values():
        for _ in range(2):  # compile, and let allocators settle
            contestant.ask("step")
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for _ in track(range(rounds), f"{backbone}, {size}, {part}", transient=True):
        for name, contestant in there.items():
            taken = [contestant.ask("step") for _ in range(2)]
            steps[name].append({key: float(np.mean([step[key] for step in taken])) for key in taken[0]})
    gflop = there[PYTORCH].ask("gflop") if PYTORCH in there else there[OURS].ask("gflop")
    for name, contestant in there.items():
        row = {key: float(np.median([step[key] for step in steps[name]])) for key in steps[name][0]}
        row |= {
            "images_per_second": BATCH / row["seconds"],
            "gflop_per_second": gflop / row["seconds"],
            "peak_MB": contestant.ask("peak"),
            "product_gflop_per_second": contestant.ask("product"),
        }
        for key in ("seconds", "processor_seconds"):
            theirs, own = ([step[key] for step in steps[one]] for one in (name, OURS))
            row[f"{key}_ratio"] = median_ratio(theirs, own)  # how many times as fast ours is
        rows[name] = row
    for contestant in there.values():
        contestant.stop()
    return {"gflop": gflop, "contestants": rows}


def profile(backbone: str, size: str, part: str, core: int) -> dict[str, float]:
    """Return the seconds of our step by kind of operation, on one core."""
    contestant = Contestant(prepare, OURS, backbone, size, part, 1, cores=[core])
    for _ in range(2):
        contestant.ask("step")
    seconds = contestant.ask("profile")
    contestant.stop()
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def show(found: dict[str, Any], title: str, console: Console) -> None:
    """Print the results of a network."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for heading in ("", "images/s", "GFLOP/s", "product's", "x ours faster (range)", "by CPU time (range)",
                    "peak MB"):  # fmt: skip
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in found["contestants"].items():
        if "left_out" in row:
            table.add_row(name, "left out")
            continue
        table.add_row(
            name, f"{row['images_per_second']:.0f}", f"{row['gflop_per_second']:.0f}",
            f"{row['product_gflop_per_second']:.0f}", with_range(row["seconds_ratio"]),
            with_range(row["processor_seconds_ratio"]), f"{row['peak_MB']:.0f}",
        )  # fmt: skip
    console.print(table)
    for name, row in found["contestants"].items():
        if "left_out" in row:
            console.print(f"{name} was left out: {row['left_out']}", markup=False)


def main() -> None:
    """Measure, print, and update results/small_networks.json."""
    parser = new_parser(__doc__, cores=True)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES, metavar="NAME")
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--profile", action="store_true", help="also our step by operation, on one core")
    arguments = parser.parse_args()
    cores = chosen_cores(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    console = Console(width=140)
    versions = {}
    for name in ("tensorflow", "keras", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    path = RESULTS / "small_networks.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    rows = results.get("rows", {})
    for backbone in arguments.backbones:
        for size in arguments.sizes:
            for part in arguments.parts:
                key = f"{backbone}, {size}, {part}"
                began = os.getloadavg()[0]
                found = contest(backbone, size, part, cores, arguments.rounds)
                found |= {
                    "processor": processor_name(), "cores": len(cores), "python": platform.python_version(),
                    "versions": versions, "batch": BATCH, "load_average": [began, os.getloadavg()[0]],
                }  # fmt: skip
                if arguments.profile:
                    found["profile_seconds"] = profile(backbone, size, part, cores[0])
                show(found, f"{key}, {len(cores)} cores", console)
                for kind, seconds in found.get("profile_seconds", {}).items():
                    share = seconds / sum(found["profile_seconds"].values())
                    console.print(f"  {100 * share:5.1f} %  {kind}")
                rows[key] = found
                write_results("small_networks", {"rows": rows, "without_onednn": old_rows(results)})


def old_rows(results: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier version of this script measured: the same step without oneDNN."""
    return results.get("without_onednn") or {key: value for key, value in results.items() if key != "rows"}


if __name__ == "__main__":
    main()
