"""Words, numbers and lines of code that say nothing, in several alphabets."""

from __future__ import annotations

from srtrt.train.rendered.chance import Chance

ALPHABETS: dict[str, tuple[str, str]] = {
    "latin": ("bcdfghjklmnpqrstvwxyz", "aeiou"),
    "accented": ("bcçdfghjklłmnñprsštvwzžß", "aeiouäöüéèêáàâíóúåøæœ"),
    "greek": ("βγδζθκλμνξπρσςτφχψ", "αεηιουωάέίό"),
    "cyrillic": ("бвгджзклмнпрстфхцчшщ", "аеёийоуыэюяьъ"),
    "hebrew": ("אבגדהוזחטכלמנפצקרשת", "יוהא"),
    "armenian": ("բգդզթժլխծկհձղճմյնշչպջռսվտրցփքֆ", "աեէըիոօ"),
    "georgian": ("ბგდვზთკლმნპჟრსტფქღყშჩცძწჭხჯჰ", "აეიოუ"),
}
"""Consonants and vowels of each alphabet."""

WITHOUT_CAPITALS = ("hebrew", "georgian")
"""Alphabets of one kind of letters."""

_TEXT = (
    "the of and to in is that for it as was with be by on not he his but at are this have from "
    "or had an they which one you were all her she there would their we him been has when who "
    "will no more if out so up said what its about than into them can only other time new some "
    "could these two may first then do any like my now over such our man me even most made after "
    "also did many off before must well back through years much where your way down should "
    "because long each just state those people too mister how little good world make very year "
    "still see own work men day get here old life both between being under three never know same "
    "last another while us might great go come since against right came take used himself few "
    "house use place during high without again home around small however found part school"
)
_COMMON = tuple(_TEXT.split())

_NAMES = (
    "width", "height", "frame", "index", "value", "row", "buffer", "scale", "kernel", "x",
    "node", "left", "right", "count", "total", "state", "name", "i", "key", "path",
)  # fmt: skip

_MARKS = "!?&@#%$€£§*+=/\\|<>[]{}()\"'-_~^;:,."

_CODE: tuple[tuple[tuple[str, str], ...], ...] = (
    (("keyword", "def "), ("name", "{a}"), ("plain", "({b}, {c}):")),
    (("keyword", "for "), ("name", "{a}"), ("keyword", " in "), ("plain", "range({n}):")),
    (("keyword", "if "), ("name", "{a}"), ("plain", " >= {n} && {b} != {c}:")),
    (("keyword", "return "), ("name", "{a}"), ("plain", "[{n}] * {b}")),
    (("name", "{a}"), ("plain", " = {b}.{c}("), ("text", '"{w} {v}"'), ("plain", ")")),
    (("comment", "# {w} {v} {w}"),),
    (("keyword", "const "), ("name", "{a}"), ("plain", ": {b} = "), ("number", "0x{n}f;")),
    (("keyword", "while "), ("plain", "({a} < {n}) {{ {b} += {c}; }}")),
)
"""Lines of code: pieces of text with the role of each."""


def word(chance: Chance, script: str = "latin") -> str:
    """One word, in lower case, with a capital or in capitals."""
    if script == "latin" and chance.happens(0.6):
        made = chance.one_of(_COMMON)
    else:
        consonants, vowels = ALPHABETS[script]
        parts = []
        for _ in range(chance.whole(1, 4)):
            parts.append(chance.one_of(consonants) + chance.one_of(vowels))
            if chance.happens(0.3):
                parts.append(chance.one_of(consonants))
        made = "".join(parts)
    if script in WITHOUT_CAPITALS:
        return made
    if chance.happens(0.08):
        return made.upper()
    return made[0].upper() + made[1:] if chance.happens(0.2) else made


def number(chance: Chance) -> str:
    """A number as tables, prices and clocks show it."""
    kind, value = chance.whole(0, 5), chance.whole(0, 9999)
    if kind < 2:
        return str(value)
    if kind == 2:
        return f"{value / 100:.2f}"
    if kind == 3:
        return f"{value % 24:02d}:{value % 60:02d}"
    return f"{value / 10:.1f}%" if kind == 4 else f"-{value:,}"


def sentence(chance: Chance, script: str, length: int) -> str:
    """Words, numbers and marks, one after another, at least ``length`` characters."""
    made = ""
    while len(made) < length:
        if chance.happens(0.1):
            made += number(chance)
        elif chance.happens(0.04):
            made += chance.one_of(_MARKS) * chance.whole(1, 2)
        else:
            made += word(chance, script)
        made += chance.one_of((" ", " ", " ", " ", " ", ", ", ". "))
    return made.rstrip()


def code_line(chance: Chance) -> list[tuple[str, str]]:
    """One line of code: pieces of text, each with its role."""
    fill = {key: chance.one_of(_NAMES) for key in "abc"}
    fill |= {"n": str(chance.whole(0, 4096)), "w": word(chance), "v": word(chance)}
    return [(role, text.format(**fill)) for role, text in chance.one_of(_CODE)]
