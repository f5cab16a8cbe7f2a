"""The exception for mistakes that a user can make and fix."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the user's input: a file, a flag, a value.

    The message is one sentence (or two short ones) that says what is wrong, where, and what to do next.
    Commands print it without a traceback and exit with code 2. Library users can catch it as a `ValueError`.

    Example:
        >>> raise UserError("images/0001.jpg is empty; delete it or copy it again.")
        Traceback (most recent call last):
        ...
        san_tf.errors.UserError: images/0001.jpg is empty; delete it or copy it again.
    """


def one_line(text: object, most: int = 200) -> str:
    r"""Return untrusted text for a message: on one line, shortened, without control characters.

    Control characters, direction marks and lone surrogates are escaped. Runs of white space become one space.

    Args:
        text: for example a server's answer, or a file name.
        most: most characters of the result.

    Example:
        >>> one_line("bad\x1b[2J request\n")
        'bad\\x1b[2J request'
    """
    line = " ".join(str(text)[: 4 * most].split())
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return safe if len(safe) <= most else f"{safe[: most - 1]}…"
