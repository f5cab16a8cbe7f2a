"""Losses of a batch that several replicas hold parts of: the global value, the gradient of one's own rows.

Under a strategy of `tf.distribute` each replica sees its rows of the batch. Everything here turns what is
local into what one process with the whole batch would have computed, by one convention: **a loss has the same
value on every replica, and its gradient is that of the replica's own rows**, so that the sum of the replicas'
gradients (`summed`) is the gradient of one process. On one replica, and outside of a strategy, all functions
hand back what they are given.

`tf.distribute` has a gradient of its own for `all_gather`: it sums what all replicas ask for. Where each of
them computes the whole loss from gathered rows, that counts every gradient as often as there are replicas,
and communicates once more. Here the others' rows are constants instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

# Name of the batch's column with each row's place in the whole batch, which data for replicas bring.
ROW = "row"


def context() -> tf.distribute.ReplicaContext | None:
    """The replica this code runs in, if it is one of several."""
    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


class WholeBatch:
    """The batch of which this replica holds some rows.

    Args:
        batch: the replica's rows; on several replicas with `row` (rows,) int: the place of each in the whole
            batch, as `san_tf.data.shards` gives it. Without `row`, as Keras deals out a data set of one's
            own, the first replica has the first rows, the next one those that follow.

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
        # Where the row of each place is found among those gathered.
        self._order = tf.argsort(self._replica.all_gather(tf.identity(self._row), axis=0))

    def rows(self, values: tf.Tensor) -> tf.Tensor:
        """Gather the rows of all replicas in the order of the whole batch.

        Args:
            values: `(rows, ...)` of this replica, any float or integer type; as many rows on every replica.

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
        # An operation of this replica, which has a device; what came with the batch may have none.
        return self._replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tf.stop_gradient(amount)))

    def mean(self, mean: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
        """Turn the mean over this replica's rows into that over all rows.

        Args:
            mean: float32 scalar, averaged over `amount` rows.
            amount: float32 scalar: of this replica, 0 if it has none to judge.

        Returns:
            float32 scalar: the global mean; 0 if no replica had any rows.
        """
        if self._replica is None:
            return mean
        share = mean * tf.math.divide_no_nan(amount, self.total(amount))
        return share + tf.stop_gradient(self.total(share) - share)


def _one_after_the_other(batch: Mapping[str, tf.Tensor], replica: tf.distribute.ReplicaContext) -> tf.Tensor:
    """The places of this replica's rows in the whole batch: behind those of the replicas before it."""
    rows = tf.shape(next(iter(batch.values())))[0]
    everyone = replica.all_gather(rows[None], axis=0)
    return tf.cumsum(everyone, exclusive=True)[replica.replica_id_in_sync_group] + tf.range(rows)


def whole_on_each_replica(value: tf.Tensor) -> tf.Tensor:
    """Give a scalar that every replica computes whole, such as a weight penalty, its share of the gradient.

    The value stays; the gradient is divided by the number of replicas, whose gradients `summed` adds up.
    """
    replica = context()
    if replica is None:
        return value
    share = value / float(replica.num_replicas_in_sync)
    return share + tf.stop_gradient(value - share)


def summed(gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Add up each gradient over the replicas: what one process would have.

    An overflow on one replica is then one on all of them, so that all skip the step of float16, and gradients
    are clipped by the norm of the whole.
    """
    replica = context()
    if replica is None:
        return list(gradients)
    reduced: dict[int, tf.Tensor] = {}
    # One call for each type: together they are sent in few pieces, and a call takes one type only.
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients if gradient is not None):
        chosen = {n: g for n, g in enumerate(gradients) if g is not None and g.dtype == dtype}
        tensors = [tf.convert_to_tensor(gradient) for gradient in chosen.values()]
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
        reduced.update(zip(chosen, sums, strict=True))
    return [reduced.get(number) for number in range(len(gradients))]
