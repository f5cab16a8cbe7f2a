"""Collects what TensorFlow finds on this machine, as rows of a table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import tensorflow as tf

from san_tf.cores import core_count
from san_tf.version import __version__

# Linux's processor flags that matter for the speed of matrix products.
_INSTRUCTIONS = (
    *("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm", "sve"),
)
_GIB = 2**30


def gpus() -> list[dict[str, object]]:
    """Return details of each GPU: `device_name` and, for NVIDIA, `compute_capability`, a pair of numbers."""
    devices = tf.config.list_physical_devices("GPU")
    return [dict(tf.config.experimental.get_device_details(device)) for device in devices]


def instructions() -> list[str]:
    """Return the processor's instruction sets for vectors and matrices; empty if Linux lists none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    present = set(flags.partition(":")[2].split())
    return [name for name in _INSTRUCTIONS if name in present]


def has_bfloat16_units() -> bool:
    """Whether the processor has units for bfloat16 matrix products (Intel's AMX)."""
    return "amx_bf16" in instructions()


def findings() -> list[tuple[str, str]]:
    """Return names and values of facts that help when training is slow or fails."""
    build = tf.sysconfig.get_build_info()
    cuda = [f"{name} {build[key]}" for name, key in _BUILT if build.get(key)]
    intra = tf.config.threading.get_intra_op_parallelism_threads()
    lines = [
        ("san_tf", __version__),
        *((name, _version(name)) for name in ("tensorflow", "keras", "numpy")),
        ("Python", f"{platform.python_version()}, {platform.platform()}"),
        ("built for", ", ".join(cuda) or "CPU only (no CUDA in this build)"),
        ("processor", _processor()),
        ("instruction sets", " ".join(instructions()) or "unknown"),
        ("cores", f"{core_count()} for this process, {os.cpu_count()} in total"),
        ("threads", f"{intra or 'as many as cores'} per operation"),
        ("memory", _memory()),
    ]
    for number, details in enumerate(gpus()):
        lines.append((f"GPU {number}", _gpu(number, details)))
    if not gpus():
        lines.append(("GPU", "none found"))
    return lines


_BUILT = (("CUDA", "cuda_version"), ("cuDNN", "cudnn_version"), ("ROCm", "rocm_version"))


def _version(distribution: str) -> str:
    for name in (distribution, f"{distribution}-cpu", f"{distribution}-macos"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[key].split()[0]) * 1024 / _GIB for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return "unknown"
    return f"{total:.1f} GiB, {free:.1f} free"


def _gpu(number: int, details: dict[str, object]) -> str:
    name = str(details.get("device_name", "unknown"))
    capability = details.get("compute_capability")
    if isinstance(capability, tuple):
        name += f", compute capability {capability[0]}.{capability[1]}"
    growth = tf.config.experimental.get_memory_growth(tf.config.list_physical_devices("GPU")[number])
    return f"{name}, memory {'taken as needed' if growth else 'taken all at once'}"
