"""Losses of the whole batch on several replicas, each of which holds some of its rows.

Under a strategy of `tf.distribute` each replica sees its rows of the batch. The functions here compute what
one process with the whole batch would compute. They follow one convention: **a loss has the same value on
every replica, and its gradient is that of the replica's own rows**. So the sum of the replicas' gradients
(`summed`) is the gradient of one process. On one replica, and outside of a strategy, all functions return
their input.

The gradient that `tf.distribute` has for `all_gather` sums over all replicas. When each of them computes the
whole loss from gathered rows, that counts every gradient once per replica, and needs another communication.
Here the rows of the other replicas are constants instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

# Key of a batch for the index of each row in the whole batch; data sets for replicas provide it.
ROW = "row"


def context() -> tf.distribute.ReplicaContext | None:
    """Return the current replica if there are several, else None."""
    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


class WholeBatch:
    """A whole batch, of which this replica holds some rows.

    Args:
        batch: the replica's rows. On several replicas `row` (rows,) int holds the index of each row in the
            whole batch, as `san_tf.data.pipeline` gives it. Without `row` (a custom data set, distributed by
            Keras) the first replica has the first rows, the second one the following rows, and so on.

    Example:
        >>> whole = WholeBatch(batch)
        >>> loss = batch_hard_triplet_loss(whole.rows(batch["label"]), whole.rows(embedding))
    """

    def __init__(self, batch: Mapping[str, tf.Tensor]) -> None:
        self._replica = context()
        if self._replica is None:
            return
        given = batch[ROW] if ROW in batch else _one_after_the_other(batch, self._replica)
        self._row = tf.cast(given, tf.int32)
        # For each index in the whole batch, the position of its row among the gathered ones.
        self._order = tf.argsort(self._replica.all_gather(tf.identity(self._row), axis=0))

    def rows(self, values: tf.Tensor) -> tf.Tensor:
        """Gather the rows of all replicas in the order of the whole batch.

        Args:
            values: `(rows, ...)` of this replica, of any float or integer dtype; every replica must have the
                same number of rows.

        Returns:
            `(rows * replicas, ...)`; only this replica's own rows have a gradient.
        """
        if self._replica is None:
            return values
        everyone = self._replica.all_gather(tf.identity(tf.stop_gradient(values)), axis=0)
        whole = tf.stop_gradient(tf.gather(everyone, self._order))
        if not values.dtype.is_floating:
            return whole
        return tf.tensor_scatter_nd_update(whole, self._row[:, None], values)

    def total(self, amount: tf.Tensor) -> tf.Tensor:
        """Sum a float scalar over the replicas, without gradient."""
        if self._replica is None:
            return amount
        # `identity` makes a tensor with this replica's device; tensors of the batch may have none.
        return self._replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tf.stop_gradient(amount)))

    def mean(self, mean: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
        """Turn the mean over this replica's rows into the mean over all rows.

        Args:
            mean: float32 scalar, the mean over `amount` rows.
            amount: float32 scalar, number of this replica's rows that count; may be 0.

        Returns:
            float32 scalar: the global mean; 0 if no rows count on any replica.
        """
        if self._replica is None:
            return mean
        share = mean * tf.math.divide_no_nan(amount, self.total(amount))
        return share + tf.stop_gradient(self.total(share) - share)


def _one_after_the_other(batch: Mapping[str, tf.Tensor], replica: tf.distribute.ReplicaContext) -> tf.Tensor:
    """Indices of this replica's rows in the whole batch, after those of the replicas before it."""
    rows = tf.shape(next(iter(batch.values())))[0]
    everyone = replica.all_gather(rows[None], axis=0)
    return tf.cumsum(everyone, exclusive=True)[replica.replica_id_in_sync_group] + tf.range(rows)


def whole_on_each_replica(value: tf.Tensor) -> tf.Tensor:
    """Divide the gradient of a scalar that every replica computes whole, such as a weight penalty.

    The value stays the same. The gradient is divided by the number of replicas, because `summed` adds up the
    gradients of all replicas.
    """
    replica = context()
    if replica is None:
        return value
    share = value / float(replica.num_replicas_in_sync)
    return share + tf.stop_gradient(value - share)


def summed(gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Sum each gradient over the replicas, to the gradient that one process would have.

    So an overflow of float16 on one replica makes all of them skip the step. Gradients are clipped by their
    global norm.
    """
    replica = context()
    if replica is None:
        return list(gradients)
    reduced: dict[int, tf.Tensor] = {}
    # One call per dtype: a call takes one dtype only, and sends its tensors together in few messages.
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients if gradient is not None):
        chosen = {n: g for n, g in enumerate(gradients) if g is not None and g.dtype == dtype}
        tensors = [tf.convert_to_tensor(gradient) for gradient in chosen.values()]
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
        reduced.update(zip(chosen, sums, strict=True))
    return [reduced.get(number) for number in range(len(gradients))]
