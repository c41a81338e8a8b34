# SPDX-License-Identifier: Apache-2.0
"""Dates and pairs: what they mean, which are held out, and which files are refused."""

import datetime
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from pyrnn.examples import dates
from pyrnn.examples.dates import ISO_SPANS, Dates, Template, plain, read_pattern, templates
from pyrnn.examples.pairs import HELD_OUT, Pair, Pairs, Symbols

babel = pytest.importorskip("babel", reason="babel is not installed")


@pytest.fixture(scope="module")
def every_template() -> list[Template]:
    return templates()


def days(count: int, seed: int = 0) -> list[datetime.date]:
    first, last = dates.FIRST.toordinal(), dates.LAST.toordinal()
    drawn = np.random.default_rng(seed).integers(first, last + 1, count).tolist()
    return [datetime.date.fromordinal(k) for k in drawn]


def test_templates_write_what_babel_writes(every_template: list[Template]) -> None:
    from babel.dates import format_date

    for template in every_template:
        for date in days(5):
            expected = plain(format_date(date, template.pattern, locale=template.language))
            assert template.write(date).text == expected


def test_no_text_means_two_dates(every_template: list[Template]) -> None:
    """Over all languages and patterns, for every day of a year."""
    meanings: dict[str, datetime.date] = {}
    for k in range(366):
        date = datetime.date(2012, 1, 1) + datetime.timedelta(k)
        for template in every_template:
            assert meanings.setdefault(template.write(date).text, date) == date
    assert len({template.language for template in every_template}) > 50
    assert len(meanings) > 50_000


def test_ambiguous_patterns_are_refused() -> None:
    locale = babel.Locale.parse("en")
    for pattern in ("d.M.y", "MM/dd/y", "d MMM yy", "MMM y", "d MMM", "d MMM y G", "d d MMM y", "y-MM-dd"):
        assert read_pattern("en", pattern, locale) is None, pattern
    for pattern in ("d MMM y", "EEEE, MMMM d, y", "y年M月d日"):
        assert read_pattern("en", pattern, locale) is not None, pattern
    # listopad: November in Polish, October in Croatian.
    assert {t.language for t in templates(["pl", "hr"])} == {"pl"}
    assert {t.language for t in templates(["hr"])} == {"hr"}
    assert set(dates.LANGUAGES) == {t.language for t in templates()}, "a language adds nothing"


def test_spans_are_those_of_the_fields(every_template: list[Template]) -> None:
    for template in every_template:
        for date in days(3, seed=1):
            text, spans = template.write(date).text, template.write(date).spans
            field = {name: text[begin:end] for name, (begin, end) in spans.items()}
            assert field["year"] == str(date.year) and template.months()[date.month] == field["month"]
            assert int(field["day"]) == date.day
            ends = sorted(spans.values())
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
    iso = days(1)[0]
    assert {name: int(str(iso)[a:b]) for name, (a, b) in ISO_SPANS.items()} == {
        "year": iso.year,
        "month": iso.month,
        "day": iso.day,
    }


def test_held_out_days_are_not_trained_on() -> None:
    data = Dates(3, 64, seed=0)
    sides = [
        {day for pair in side for day in pair.target.split()}
        for side in (data.validation, data.test, [pair for step in range(200) for pair in data[step]])
    ]
    assert all(len(side) > 1000 for side in sides)
    assert not sides[0] & sides[1] and not (sides[0] | sides[1]) & sides[2]
    assert len(data.validation) == len(data.test) == HELD_OUT
    places = [{datetime.date.fromisoformat(day).toordinal() % 20 for day in side} for side in sides]
    assert places == [{0}, {10}, set(range(20)) - {0, 10}]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again, other = Dates(3, 8, 0), Dates(3, 8, 0), Dates(3, 8, 1)
    assert first[5] == again[5] != other[5] and first[6] != first[5]
    assert first.test == other.test and first.fingerprint() == other.fingerprint()
    pairs = first[5] + first[6] + first[7]
    assert {len(pair.target.split()) for pair in pairs} == {1, 2, 3}
    for pair in pairs:
        assert pair.source.count(dates.BETWEEN) == pair.target.count(dates.BETWEEN_ISO)
        assert len(pair.target) <= first.longest()
    sources, targets = (set(characters) for characters in first.characters())
    assert all(set(pair.source) <= sources and set(pair.target) <= targets for pair in pairs)


def test_without_babel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(ValueError, match="pip install babel, or give --pairs"):
        Dates(1, 4, 0)


def test_pairs_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    words = [f"word {k}" for k in range(400)]
    lines = [f"{word}\t{word[::-1]}\tCC-BY {word}" for word in words] + ["", "word 7\tseven"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = Pairs(path, 16, seed=0)
    train = [pair for step in range(len(words) // 16) for pair in data[step]]
    sides = [{pair.source for pair in side} for side in (train, data.validation, data.test)]
    assert min(map(len, sides)) > 5
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    everything = [*data._train, *data.validation, *data.test]
    assert sorted(everything) == sorted([*(Pair(w, w[::-1]) for w in words), Pair("word 7", "seven")])

    count = len(data._train)
    epochs = [pair for step in range(count) for pair in data[step]]  # 16 epochs
    for k in range(0, len(epochs), count):
        assert sorted(epochs[k : k + count]) == sorted(data._train)
    assert epochs[:count] != epochs[count : 2 * count]
    assert Pairs(path, 16, seed=0)[3] == data[3] != Pairs(path, 16, seed=1)[3]
    assert set("word 0123456789") == set(data.characters()[0])
    assert data.longest() == max(len(pair.target) for pair in train)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\tb\nno tab\n", "line 2: expected a source, a tab and a target"),
        ("a\tb\n\nx\t\n", "line 3: expected a source"),
        ("\n\nx\t \n", "line 3: expected a source"),
        ("a\tb\n", "expected some hundred pairs"),
        ("", "expected some hundred pairs"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"x.tsv: {words}"):
        Pairs(path, 4, 0)


def test_symbols() -> None:
    symbols = Symbols("abc é")
    ids, lengths = symbols.encode(["cab", "", "aéz\x02"])
    assert ids.shape == (3, 5) and lengths.tolist() == [4, 1, 5]
    assert (ids[0, 3:] == symbols.end).all() and (ids[1] == symbols.end).all()
    assert [symbols.decode(row) for row in ids] == ["cab", "", "aé\ufffd\ufffd"]
    assert symbols.start not in ids and len(symbols) == 5 + 3
    assert Symbols(symbols.alphabet.characters).alphabet.characters == symbols.alphabet.characters
