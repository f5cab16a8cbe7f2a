"""The one exception for mistakes a user can make and mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: a file, a flag, a value.

    The message is one sentence (or two short ones) that says what is wrong, where, and what to do next.
    Command lines print it without a traceback and end with exit code 2; a library user catches it as a
    `ValueError`.

    Example:
        >>> raise UserError("images/0001.jpg is empty; delete it or copy it again.")
        Traceback (most recent call last):
        ...
        san_tf.errors.UserError: images/0001.jpg is empty; delete it or copy it again.
    """
