"""Identities and cameras as numbers, where files write them as text."""

from __future__ import annotations

import re

from san_tf.errors import UserError, one_line

# Python reads 1_000 and digits of all scripts too, and refuses thousands of digits with another sentence.
_NUMBER = re.compile("[+-]?[0-9]{1,40}")


class WholeNumbers:
    """Reads whole numbers and sees that two texts do not become one person: `7` and `07` are the same number.

    One reader is used for all texts of a source.

    Example:
        >>> numbers = WholeNumbers()
        >>> numbers.read("identity", "0002", "a.csv, line 2")
        2
    """

    def __init__(self) -> None:
        self._spelt: dict[tuple[str, int], str] = {}

    def read(self, what: str, text: str, where: str) -> int:
        """Return the number, of 64 bits.

        Args:
            what: it is, such as "identity".
            text: as written.
            where: it stands, for messages.

        Raises:
            UserError: it is not a whole number, or was written in another way before.
        """
        text = text.strip()
        if not _NUMBER.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
            raise UserError(
                f"{where}: the {what} is {one_line(text, 40)!r}; identities and cameras are whole numbers, -1"
                " where unknown."
            )
        self.check(what, text, where)
        return int(text)

    def check(self, what: str, text: str, where: str) -> None:
        """Only see that a number is not written in another way than before; other texts pass.

        Raises:
            UserError: it is.
        """
        text = text.strip()
        if not _NUMBER.fullmatch(text):
            return
        former = self._spelt.setdefault((what, int(text)), text)
        if former != text:
            raise UserError(
                f"{where}: the {what} {text} is written {former} elsewhere, and both are the number"
                f" {int(text)}; write one {what} alike everywhere, and give others other numbers."
            )
