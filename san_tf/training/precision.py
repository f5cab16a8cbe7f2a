"""The number format of training: float32, or 16 bits for the activations with float32 weights and losses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from san_tf.errors import UserError
from san_tf.keras_compat import dtype_policy, set_dtype_policy

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
AUTO = "auto"
# What Linux calls a processor's arithmetic in each format; without one of these it is imitated, many times
# slower than float32.
CPU_UNITS = {
    "mixed_float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    "mixed_bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
}
_CPUINFO = Path("/proc/cpuinfo")
_logger = logging.getLogger(__name__)


def set_precision(precision: str) -> None:
    """Set Keras's policy for the layers built from now on.

    `compile` wraps the optimiser with dynamic loss scaling under "mixed_float16" by itself. Weights, losses,
    embeddings, logits and textures stay float32 under each. On processors without 16-bit arithmetic (most
    CPUs) both mixed formats are several times slower than float32, which a warning says: they are meant for
    GPUs.

    Args:
        precision: "float32", "mixed_float16" (NVIDIA Volta and later), "mixed_bfloat16" (Ampere and later,
            TPUs; no loss scaling needed), or "auto", see `sensible_precision`.

    Raises:
        UserError: an unknown name.
    """
    if precision not in (AUTO, *PRECISIONS):
        raise UserError(f"Unknown precision {precision!r}; choose one of {', '.join((AUTO, *PRECISIONS))}.")
    if precision == AUTO:
        precision = sensible_precision()
        _logger.info("Precision: %s.", precision)
    elif precision != "float32" and not tf.config.list_logical_devices("GPU") and not _has_units(precision):
        _logger.warning(
            "%s on a processor without such arithmetic: expect it to be several times slower than float32; "
            "choose --precision auto, unless it is to try the format out.",
            precision,
        )
    set_dtype_policy(precision)


def get_precision() -> str:
    """The name of Keras's present policy."""
    return dtype_policy()


def sensible_precision() -> str:
    """The format that suits the devices there are.

    float32 on a CPU, always: a run's result then does not depend on which CPU it was. On GPUs by the
    weakest one's compute capability: bfloat16 from 8.0 (Ampere) on, which needs no loss scaling; float16 from
    7.0 (Volta) on; below, and on devices that do not tell, float32.
    """
    capabilities = [
        tf.config.experimental.get_device_details(device).get("compute_capability", (0, 0))
        for device in tf.config.list_physical_devices("GPU")
    ]
    weakest = min(capabilities, default=(0, 0))
    if weakest >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if weakest >= (7, 0) else "float32"


@contextlib.contextmanager
def precision_scope(precision: str) -> Iterator[None]:
    """Set a precision for the layers built inside the block, then put the former one back.

    Example:
        >>> with precision_scope("mixed_float16"):
        ...     encoder = build_encoder("thin_resnet", (128, 64, 3), weights=None)
    """
    former = get_precision()
    set_precision(precision)
    try:
        yield
    finally:
        set_dtype_policy(former)


def _has_units(precision: str) -> bool:
    """Whether the processor computes in the format; True where it does not tell."""
    if not _CPUINFO.exists():
        return True
    words = set(_CPUINFO.read_text(errors="replace").split())
    return bool(words & CPU_UNITS[precision])
