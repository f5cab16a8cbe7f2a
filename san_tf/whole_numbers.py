"""Reads identities and cameras as whole numbers from text."""

from __future__ import annotations

import re

from san_tf.errors import UserError, one_line

# Stricter than `int`, which also reads 1_000 and digits of other scripts, and refuses thousands of digits.
_NUMBER = re.compile("[+-]?[0-9]{1,40}")


class WholeNumbers:
    """Reads whole numbers, and refuses different spellings of one number, such as `7` and `07`.

    Use one reader for all texts of a source.

    Example:
        >>> numbers = WholeNumbers()
        >>> numbers.read("identity", "0002", "a.csv, line 2")
        2
    """

    def __init__(self) -> None:
        self._spelt: dict[tuple[str, int], str] = {}

    def read(self, what: str, text: str, where: str) -> int:
        """Return the number in a text, limited to 64 bits.

        Args:
            what: what the number is, such as "identity".
            text: the text.
            where: place of the text, for messages.

        Raises:
            UserError: the text is not a whole number, or the number was written differently before.
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
        """Check that a number is not written differently than before; other texts pass.

        Args:
            what: what the number is, such as "identity".
            text: the text.
            where: place of the text, for messages.

        Raises:
            UserError: the number was written differently before.
        """
        text = text.strip()
        if not _NUMBER.fullmatch(text):
            return
        former = self._spelt.setdefault((what, int(text)), text)
        if former != text:
            raise UserError(
                f"{where}: the {what} {text} is written {former} elsewhere, and both are the number"
                f" {int(text)}; write each {what} in one way, and give different ones different numbers."
            )
