"""Number format of training: float32, or 16-bit activations with float32 weights and losses."""

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
# Linux's names for processor support of each format. Without it the format is emulated, many times slower
# than float32.
CPU_UNITS = {
    "mixed_float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    "mixed_bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
}
_CPUINFO = Path("/proc/cpuinfo")
_logger = logging.getLogger(__name__)


def set_precision(precision: str) -> None:
    """Set Keras's dtype policy for the layers built from now on.

    Under "mixed_float16", `compile` adds dynamic loss scaling to the optimiser. Weights, losses, embeddings,
    logits and textures stay float32 in every format. The mixed formats are meant for GPUs. On processors
    without 16-bit arithmetic (most CPUs) they are several times slower than float32; a warning says so.

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
            "This processor has no %s arithmetic, so training will be several times slower than in float32; "
            "choose --precision auto, unless you only want to try the format.",
            precision,
        )
    set_dtype_policy(precision)


def get_precision() -> str:
    """Return the name of Keras's current dtype policy."""
    return dtype_policy()


def sensible_precision() -> str:
    """Return the format that suits the available devices.

    A CPU always gets float32, so that results do not depend on the CPU model. GPUs get a format by the
    compute capability of the weakest one: bfloat16 from 8.0 (Ampere), which needs no loss scaling; float16
    from 7.0 (Volta); else, or if it is unknown, float32.
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
    """Set a precision for the layers built inside the block, then restore the previous one.

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
    """Whether the processor supports the format; True if unknown."""
    if not _CPUINFO.exists():
        return True
    words = set(_CPUINFO.read_text(errors="replace").split())
    return bool(words & CPU_UNITS[precision])
