"""Names that others chose, as values of labels: whatever they hold, a scrape stays one that can be read."""

from __future__ import annotations

#: Letters of a value; Prometheus can be told to refuse a whole scrape for a longer one.
LENGTH_MOST = 200
#: What is beyond a bound is told together under this name, which no tenant and no card can have.
OTHERS = "(others)"


def value(text: str) -> str:
    """``text`` without signs that steer a terminal or end a line, and no longer than ``LENGTH_MOST``.

    Quotes and backslashes are the encoder's to escape. A NUL, which it lets pass, would end a scrape for Prometheus.
    """
    text = text[:LENGTH_MOST]
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class Bounded:
    """Names that have series of their own: the first so many that come; all others share one."""

    def __init__(self, most: int) -> None:
        """None has come yet."""
        self._most, self._known = most, set[str]()

    def __call__(self, text: str) -> str:
        """The value for this name."""
        name = value(text)
        if name in self._known:
            return name
        if len(self._known) >= self._most:
            return OTHERS
        self._known.add(name)
        return name
