"""P x K sampling: plans an epoch of batches of P identities with K images each.

Every plan is a pure function of (seed, epoch), so a run can resume at any step.
"""

from __future__ import annotations

import numpy as np

from san_tf.errors import UserError

# Separate random streams for the plans of one (seed, epoch).
_PK_STREAM, _SHUFFLE_STREAM = 1, 2


def pk_steps(pids: np.ndarray, identities_per_batch: int, images_per_identity: int) -> int:
    """Return the number of batches in one epoch of `pk_batches`.

    It depends only on the number of images of each identity. An identity with n images gives
    `max(1, n // K)` groups of K images. The epoch ends when no batch of P groups of different identities can
    be filled.

    Args:
        pids: `(N,)` identities; those below 1 (distractors, junk) are left out.
        identities_per_batch: P.
        images_per_identity: K.

    Raises:
        UserError: P or K is below 1, or there are fewer than P identities.
    """
    if identities_per_batch < 1 or images_per_identity < 1:
        raise UserError(
            f"A batch needs at least one identity and one image of each; received "
            f"{identities_per_batch} x {images_per_identity}."
        )
    _, counts = np.unique(np.asarray(pids)[np.asarray(pids) > 0], return_counts=True)
    if len(counts) < identities_per_batch:
        raise UserError(
            f"Batches of {identities_per_batch} identities x {images_per_identity} images need at least "
            f"{identities_per_batch} training identities, and the data hold {len(counts)}; ask for fewer "
            "identities a batch or add data."
        )
    groups = np.maximum(1, counts // images_per_identity)
    steps = int(groups.sum()) // identities_per_batch
    # An identity occurs once in a batch, so its groups beyond the number of steps cannot be used. That can
    # shorten the epoch further.
    while np.minimum(groups, steps).sum() < steps * identities_per_batch:
        steps -= 1
    return steps


def pk_batches(
    pids: np.ndarray, identities_per_batch: int, images_per_identity: int, seed: int, epoch: int
) -> np.ndarray:
    """Plan one epoch of P x K batches: P different identities with K consecutive images each.

    The images of every identity are shuffled and cut into groups of K; the remainder is left out of this
    epoch. An identity with fewer than K images gives one group in which images repeat. No other image occurs
    twice in an epoch.

    Args:
        pids: `(N,)` identities; those below 1 (distractors, junk) are left out.
        identities_per_batch: P.
        images_per_identity: K.
        seed: of the run.
        epoch: from 0.

    Returns:
        `(steps, P * K)` int64 indices into `pids`; the same for the same arguments, on any machine.

    Raises:
        UserError: as `pk_steps`.

    Example:
        >>> pk_batches(np.array([5, 5, 7, 7, 9]), 2, 2, seed=0, epoch=0).shape
        (1, 4)
    """
    pids = np.asarray(pids)
    steps = pk_steps(pids, identities_per_batch, images_per_identity)
    rng = np.random.default_rng((seed, epoch, _PK_STREAM))
    candidates = rng.permutation(np.flatnonzero(pids > 0))
    # Stable sort of shuffled candidates: identities together, their images in random order.
    candidates = candidates[np.argsort(pids[candidates], kind="stable")]
    _, starts, counts = np.unique(pids[candidates], return_index=True, return_counts=True)
    groups = np.minimum(np.maximum(1, counts // images_per_identity), steps)

    # Put the groups of all identities in one line, identities in random order, and deal it out to the steps
    # in turn. An identity has at most `steps` groups, next to each other, so they get different batches.
    order = rng.permutation(len(groups))
    owner = np.repeat(order, groups[order])[: steps * identities_per_batch]
    first = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
    within = np.arange(len(owner)) - np.repeat(first, np.diff(np.append(first, len(owner))))
    member = within[:, None] * images_per_identity + np.arange(images_per_identity)
    indices = candidates[starts[owner][:, None] + member % counts[owner][:, None]]
    batches = indices.reshape(identities_per_batch, steps, images_per_identity).transpose(1, 0, 2)
    return batches[rng.permutation(steps)].reshape(steps, identities_per_batch * images_per_identity)


def shuffled_stream(number: int, start: int, count: int, seed: int) -> np.ndarray:
    """Return elements `start` to `start + count` of endless shuffled passes over the records.

    Args:
        number: number of records, N, at least 1.
        start: position in the stream, from 0.
        count: number of elements.
        seed: seed of the run; every pass has a different order.

    Returns:
        `(count,)` int64 in `[0, N)`; every pass of N elements holds each record once.
    """
    passes = range(start // number, (start + count - 1) // number + 1) if count else range(0)
    orders = [np.random.default_rng((seed, epoch, _SHUFFLE_STREAM)).permutation(number) for epoch in passes]
    stream = np.concatenate([*orders, np.empty(0, np.int64)]).astype(np.int64)
    return stream[start % number :][:count]
