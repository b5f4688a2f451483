"""The usage as one page of HTML, with plots that a browser shows without a server and without JavaScript."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.filesize import decimal

from operations.usage.forecast import Forecast
from operations.usage.growth import Growth
from operations.usage.presentation import largest, oldest, oldest_title, signed
from operations.usage.sizes import Usage

#: Most bars and rows of a plot and of the lists of tags.
_MOST_BARS, _MOST_ROWS = 20, 20
#: The plot of arrivals, in units of its own.
_WIDTH, _HEIGHT, _MOST_POINTS, _LINES = 1000, 260, 300, 4
_TEMPLATES = Environment(
    loader=PackageLoader("operations.usage"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"size": decimal, "signed": signed}


@dataclass(frozen=True)
class Bar:
    """A bar. The widths of its own and its shared part are in percent of the longest bar."""

    name: str
    own: float
    shared: float
    words: str


@dataclass(frozen=True)
class Curve:
    """The stored bytes over time: an SVG path, lines with their labels, and the first and the last moment."""

    path: str
    lines: tuple[tuple[float, str], ...]
    first: datetime.datetime
    last: datetime.datetime


def page(registry: str, now: datetime.datetime, found: Usage, grown: Growth | None, expected: Forecast | None) -> str:
    """Render the page. The same values always give the same page."""
    return _TEMPLATES.get_template("usage.html.j2").render(
        registry=registry,
        now=now,
        usage=found,
        growth=grown,
        tags=sum(len(one.tags) for one in found.repositories),
        bars=bars([(one.name, one.own, one.size - one.own) for one in found.repositories[:_MOST_BARS]]),
        more=len(found.repositories[_MOST_BARS:]),
        tag_bars={
            one.name: bars([(tag.name, tag.own, tag.size - tag.own) for tag in one.tags]) for one in found.repositories
        },
        curve=curve(found.arrivals, now),
        width=_WIDTH,
        height=_HEIGHT,
        largest=largest(found, _MOST_ROWS),
        oldest=oldest(found, _MOST_ROWS, expected),
        oldest_title=oldest_title(expected),
        expected=expected,
    )


def bars(rows: Sequence[tuple[str, int, int]]) -> list[Bar]:
    """Return bars for names with their own and their shared bytes."""
    longest = max((own + shared for _, own, shared in rows), default=0) or 1
    return [
        Bar(
            name,
            round(100 * own / longest, 2),
            round(100 * shared / longest, 2),
            f"{decimal(own + shared)}, {decimal(own)} of that own",
        )
        for name, own, shared in rows
    ]


def curve(arrivals: Sequence[tuple[datetime.datetime, int]], now: datetime.datetime) -> Curve | None:
    """Return the curve of all bytes that had arrived at each time, or None without two times."""
    first = arrivals[0][0] if arrivals else now
    last = max(now, arrivals[-1][0]) if arrivals else now  # the clock of the Docker host may be ahead
    seconds = (last - first).total_seconds()
    if seconds <= 0:
        return None
    sums = list(accumulate(size for _, size in arrivals))
    step = round_up(max(sums[-1], 1) / _LINES)
    top = step * _LINES
    every = -(-len(sums) // _MOST_POINTS)
    chosen = sorted({*range(0, len(sums), every), len(sums) - 1})

    def x(moment: datetime.datetime) -> float:
        return round(_WIDTH * (moment - first).total_seconds() / seconds, 1)

    def y(size: float) -> float:
        return round(_HEIGHT * (1 - size / top), 1)

    def steps() -> Iterator[str]:
        yield f"M0 {_HEIGHT}"
        for place in chosen:
            yield f"H{x(arrivals[place][0])} V{y(sums[place])}"
        yield f"H{_WIDTH} V{_HEIGHT} Z"

    lines = tuple((y(step * number), decimal(step * number)) for number in range(_LINES + 1))
    return Curve(" ".join(steps()), lines, first, last)


def round_up(size: float) -> int:
    """Return the next number that starts with 1, 2 or 5, with zeros after it, for the lines of a plot."""
    unit: int = 10 ** max(len(str(int(size))) - 1, 0)
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= size)
