# SPDX-License-Identifier: Apache-2.0
"""Dates as people write them in many languages, and in ISO 8601: pairs to learn from, made by babel.

A pattern is taken only when its text can mean one day: the month is a word (or marked as one, 11月), the year
has four digits, and no month's name is another month's in another language (*listopad* is October in Croatian
and November in Polish: the language that comes first keeps it).
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyrnn.examples.pairs import Pair
from pyrnn.layout import Array

LANGUAGES = tuple(
    "en en_GB fr de es it pt nl pl ru uk cs tr sv da nb nn fi is et lv lt hu ro bg sr mk sk sl bs sq el ca eu"
    " gl ga cy af sw zu id ms fil vi az uz kk be hy ka he ar fa ur hi mr bn ta te th ja zh ko".split()
)
#: One whole cycle of the Gregorian calendar.
FIRST, LAST = datetime.date(1800, 1, 1), datetime.date(2199, 12, 31)
#: Of every 20 days in a row, these are held out.
VALIDATION, TEST, EVERY = 0, 10, 20
#: Between dates of one example, in the source and in the target.
BETWEEN, BETWEEN_ISO = "; ", " "
#: Examples that are held out, of each kind.
HELD_OUT = 2000

SKELETONS = ("yMMMd", "yMMMEd", "yMMMMd", "yMMMMEEEEd")
KINDS = {"y": "year", "M": "month", "L": "month", "d": "day", "E": "weekday", "c": "weekday"}
#: Where each field stands in an ISO date.
ISO_SPANS = {"year": (0, 4), "month": (5, 7), "day": (8, 10)}


@dataclasses.dataclass(frozen=True)
class Written:
    """A date in some language, and [begin, end) of its `year`, `month`, `day` and, if any, `weekday`."""

    text: str
    spans: dict[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Template:
    """A pattern of one language: pieces of text that stand still, and fields with their texts by value."""

    language: str
    pattern: str
    pieces: tuple[tuple[str, dict[int, str]], ...]  # ("literal", {0: text}), or a field with all its texts

    def write(self, date: datetime.date) -> Written:
        """The date in this pattern."""
        values = {"literal": 0, "month": date.month, "day": date.day, "weekday": date.weekday()}
        text, spans = "", {}
        for kind, texts in self.pieces:
            piece = str(date.year) if kind == "year" else texts[values[kind]]
            if kind != "literal":
                spans[kind] = (len(text), len(text) + len(piece))
            text += piece
        return Written(text, spans)

    def months(self) -> dict[int, str]:
        """The names of the months."""
        return next(texts for kind, texts in self.pieces if kind == "month")


def templates(languages: Sequence[str] = LANGUAGES) -> list[Template]:
    """Every unambiguous pattern of these languages, each text once.

    Raises
    ------
    ValueError
        babel is not installed.
    """
    try:
        from babel import Locale
    except ImportError:
        raise ValueError(
            "the dates are written by babel, which is not installed: pip install babel, or give --pairs"
        ) from None
    meanings: dict[str, int] = {}
    found = []
    for language in languages:
        locale = Locale.parse(language)
        patterns = [str(locale.date_formats[length]) for length in ("full", "long", "medium")]
        skeletons = locale.datetime_skeletons
        patterns += [str(skeletons[name]) for name in SKELETONS if name in skeletons]
        written: set[str] = set()
        for pattern in dict.fromkeys(patterns):
            template = read_pattern(language, pattern, locale)
            if template is None:
                continue
            names = {name.casefold(): month for month, name in template.months().items()}
            if len(names) < 12 or any(meanings.get(name, month) != month for name, month in names.items()):
                continue
            example = template.write(datetime.date(2021, 11, 3)).text
            if example not in written:
                written.add(example)
                meanings |= names
                found.append(template)
    return found


def read_pattern(language: str, pattern: str, locale: Any) -> Template | None:
    """A pattern as a template, or None when its text could mean more than one day."""
    from babel.dates import DateTimeFormat, tokenize_pattern

    tokens: list[tuple[str, Any]] = tokenize_pattern(pattern)
    fields = {KINDS.get(value[0], ""): value for kind, value in tokens if kind == "field"}
    count = sum(kind == "field" for kind, _ in tokens)
    if "" in fields or len(fields) != count or not fields.keys() >= {"year", "month", "day"}:
        return None
    if fields["year"][1] not in (1, 4):
        return None
    pieces: list[tuple[str, dict[int, str]]] = []
    for k, (kind, value) in enumerate(tokens):
        if kind != "field":
            pieces.append(("literal", {0: plain(value)}))
            continue
        name, field = KINDS[value[0]], value[0] * value[1]
        if name == "month" and value[1] < 3:
            after = tokens[k + 1] if k + 1 < len(tokens) else ("", "")
            if after[0] != "chars" or after[1][0] not in "月월":
                return None
        days = {
            "year": [],
            "month": [datetime.date(2021, month, 1) for month in range(1, 13)],
            "day": [datetime.date(2021, 1, day) for day in range(1, 32)],
            "weekday": [datetime.date(2021, 11, day) for day in range(1, 8)],  # from a Monday
        }[name]
        keys = range(7) if name == "weekday" else range(1, len(days) + 1)
        pieces.append(
            (
                name,
                {key: plain(DateTimeFormat(day, locale)[field]) for key, day in zip(keys, days, strict=True)},
            )
        )
    return Template(language, pattern, tuple(pieces))


def plain(text: str) -> str:
    """Composed characters, ordinary spaces, no marks of the writing direction."""
    text = unicodedata.normalize("NFC", text)
    return "".join(" " if c.isspace() else c for c in text if c not in "\u200e\u200f")


class Dates:
    """Examples without end, of 1 to `most` dates each, a function of the step alone.

    Every 20th day, and the days midway between those, are held out: for validation and for the test.

    Parameters
    ----------
    most : int
        Dates in one example; how many there are is drawn, and so are dates and patterns.
    batch : int
        B.
    seed : int
        Of the draws.
    """

    def __init__(self, most: int, batch: int, seed: int) -> None:
        self.most, self.batch, self.seed = most, batch, seed
        self.templates = templates()
        days = np.arange(FIRST.toordinal(), LAST.toordinal() + 1)
        place = days % EVERY
        self._train = days[(place != VALIDATION) & (place != TEST)]
        self.validation = self._held_out(days[place == VALIDATION], 1)
        self.test = self._held_out(days[place == TEST], 2)

    def __getitem__(self, step: int) -> list[Pair]:
        """The batch of a step."""
        return self._draw(
            np.random.Generator(np.random.Philox([self.seed, 2, step])), self._train, self.batch
        )

    def _held_out(self, days: Array, stream: int) -> list[Pair]:
        return self._draw(np.random.Generator(np.random.Philox([stream])), days, HELD_OUT)

    def _draw(self, rng: np.random.Generator, days: Array, examples: int) -> list[Pair]:
        counts = rng.integers(1, self.most + 1, examples)
        dates = [datetime.date.fromordinal(k) for k in rng.choice(days, counts.sum()).tolist()]
        drawn = rng.integers(0, len(self.templates), len(dates)).tolist()
        texts = [self.templates[k].write(date).text for k, date in zip(drawn, dates, strict=True)]
        ends = np.cumsum(counts).tolist()
        return [
            Pair(BETWEEN.join(texts[end - n : end]), BETWEEN_ISO.join(map(str, dates[end - n : end])))
            for end, n in zip(ends, counts.tolist(), strict=True)
        ]

    def characters(self) -> tuple[str, str]:
        """Those of sources and of targets."""
        texts = [text for template in self.templates for _, by in template.pieces for text in by.values()]
        return "".join(sorted(set("".join(texts) + BETWEEN + "0123456789"))), BETWEEN_ISO + "-0123456789"

    def longest(self) -> int:
        """Characters of the longest target."""
        return self.most * (ISO_SPANS["day"][1] + len(BETWEEN_ISO)) - len(BETWEEN_ISO)

    def fingerprint(self) -> str:
        """Of everything that is not drawn; another version of babel may write differently."""
        content = repr([(t.language, t.pieces) for t in self.templates])
        return hashlib.sha256(content.encode()).hexdigest()

    def __str__(self) -> str:
        languages = len({template.language for template in self.templates})
        return f"dates in {languages} languages, {len(self.templates)} patterns"
