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


def one_line(text: object, most: int = 200) -> str:
    r"""Return what somebody else wrote, fit for a message: on one line, cut, unable to steer a terminal.

    Control characters, marks of direction and half surrogates become escapes; runs of space become one.

    Args:
        text: such as the answer of a server, or the name of a file.
        most: characters of the result.

    Example:
        >>> one_line("bad\x1b[2J request\n")
        'bad\\x1b[2J request'
    """
    line = " ".join(str(text)[: 4 * most].split())
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return safe if len(safe) <= most else f"{safe[: most - 1]}…"
