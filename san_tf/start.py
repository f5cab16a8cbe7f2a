"""Starts TensorFlow without its start-up messages on the screen."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Literal

from san_tf.command_line import printable
from san_tf.errors import UserError

if TYPE_CHECKING:
    from san_tf.training.distribution import Distribution


def import_tensorflow(
    threads: int = 0, strategy: Literal["mirrored", "multiworker"] | None = None
) -> Distribution | None:
    """Import TensorFlow and start its devices without its messages on oneDNN and missing GPUs.

    TensorFlow writes them before any setting can silence it, and users cannot act on them. They are shown if
    the import fails.

    Args:
        threads: cores that each of TensorFlow's operations may use; 0 for all.
        strategy: strategy of distributed training, see `san_tf.training.distribution.start`; None for one
            device.

    Returns:
        The distribution; None for one device.

    Raises:
        UserError: the strategy cannot be started.
    """
    distribution = None
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    screen = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf

            if threads:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
            if strategy is None:
                from san_tf.training.distribution import grow_memory

                grow_memory()
            else:
                from san_tf.training.distribution import start

                distribution = start(strategy, lambda text: print(printable(text), flush=True))
            tf.config.list_logical_devices()
        except UserError:
            raise
        except BaseException:
            notes.seek(0)
            os.write(screen, notes.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
    return distribution
