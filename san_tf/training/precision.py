"""The number format of training: float32, or 16 bits for the activations with float32 weights and losses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from san_tf.errors import UserError
from san_tf.keras_compat import dtype_policy, set_dtype_policy

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


def set_precision(precision: str) -> None:
    """Set Keras's policy for the layers built from now on.

    `compile` wraps the optimiser with dynamic loss scaling under "mixed_float16" by itself. Weights, losses,
    embeddings, logits and textures stay float32 under each. On processors without 16-bit arithmetic (most
    CPUs) both mixed formats are several times slower than float32: they are meant for GPUs.

    Args:
        precision: "float32", "mixed_float16" (NVIDIA Volta and later) or "mixed_bfloat16" (Ampere and later,
            TPUs; no loss scaling needed).

    Raises:
        UserError: an unknown name.
    """
    if precision not in PRECISIONS:
        raise UserError(f"Unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    set_dtype_policy(precision)


def get_precision() -> str:
    """The name of Keras's present policy."""
    return dtype_policy()


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
        set_precision(former)
