"""Names of results: ``photo.jpg`` → ``photo_x4.jpg``, or by a template of the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any

from bidiffsr.errors import OptionError

_FIELDS = ("stem", "scale", "width", "height", "seed", "sample", "ext")
_WHOLE = ("width", "height", "seed", "sample")
_WIDTH = re.compile("0[1-9]")  # of a number with zeros before it
SUMMARIES = ("mean", "uncertainty", "deviation")
"""In names, what is made of several samples stands where one's number would."""
_SAMPLE = f"(?:\\d+|{'|'.join(SUMMARIES)})"
# What earlier runs called their results when they were told nothing else.
_DEFAULTS = (
    "{stem}_x{scale}{ext}",
    "{stem}_w{width}{ext}",
    "{stem}_h{height}{ext}",
    "{stem}_w{width}_h{height}{ext}",
)


def name_template(option: str, value: Any) -> str:
    """Text that has ``{stem}`` and ends with ``{ext}``, its other fields being of ``_FIELDS``.

    Raises:
        OptionError: it is none; the message names the option.
    """
    try:
        parts = list(Formatter().parse(value))
    except (TypeError, ValueError):
        parts = []
    fields = {field for _, field, _, _ in parts if field is not None}
    sound = (
        {"stem", "ext"} <= fields <= set(_FIELDS)
        and value.endswith("{ext}")
        and not re.search(r"[/\\\0-\x1f]", value)
        and all(not conversion for _, _, _, conversion in parts)
        and all(field in _WHOLE and _WIDTH.fullmatch(spec) for _, field, spec, _ in parts if spec)
    )
    if not sound:
        given = repr(value)[:60]
        others = ", ".join(f"{{{field}}}" for field in _FIELDS[1:-1])
        raise OptionError(
            option,
            f"got {given}, expected a file's name that has {{stem}}, ends with {{ext}}, and may "
            f"have {others}, such as {{stem}}_x{{scale}}{{ext}}",
        )
    return value


@dataclass(frozen=True)
class Naming:
    """How the results of a run are named.

    Attributes:
        template: see ``name_template``; None: as the numbers suggest.
        numbers: the fields that are known, of ``scale``, ``width``, ``height`` and ``seed``.
        samples: how many results there are of each picture; where there are several, their
            numbers stand in the names.
        suffix: of the results; None: as their pictures'.

    Raises:
        OptionError: the template has a field that is not known.
    """

    template: str | None
    numbers: Mapping[str, float]
    samples: int = 1
    suffix: str | None = None

    def __post_init__(self) -> None:
        for field in _fields(self._whole):
            if field in _FIELDS and field not in ("stem", "ext", "sample", *self.numbers):
                raise OptionError(
                    "name", f"has {{{field}}}, which is not given; leave it out, or give --{field}"
                )

    def names(self, stem: str, suffix: str) -> list[str]:
        """Of the results of a picture, in the order of the samples."""
        known = self._known(stem, self.suffix or suffix)
        whole = self._whole
        return [whole.format_map(known | {"sample": sample + 1}) for sample in range(self.samples)]

    def summary(self, word: str, stem: str, suffix: str) -> str:
        """Of what is made of several samples: the word stands in place of their numbers.

        Args:
            word: one of ``SUMMARIES``.
            stem: of the picture.
            suffix: of the result, whatever that of the samples is.
        """
        template = re.sub(r"\{sample(:0\d)?\}", word, self._whole)
        return template.format_map(self._known(stem, suffix))

    def origin(self, stem: str) -> str | None:
        """The stem of the picture that a result so named was made from; None of no result."""
        for pattern in self._patterns:
            if match := pattern.fullmatch(stem):
                return match["stem"]
        return None

    def _known(self, stem: str, suffix: str) -> dict[str, Any]:
        known: dict[str, Any] = {**self.numbers, "stem": stem, "ext": suffix}
        if "scale" in known:
            known["scale"] = f"{known['scale']:g}"
        return known

    @property
    def keeps_stems(self) -> bool:
        """Whether nothing but the folder tells a result from its picture."""
        return self._whole == "{stem}{ext}"

    @property
    def _whole(self) -> str:
        template = self.template or self._default
        if self.samples > 1 and "sample" not in _fields(template):
            template = template.removesuffix("{ext}") + "_{sample}{ext}"
        return template

    @property
    def _default(self) -> str:
        return next(
            default
            for default in reversed(_DEFAULTS)
            if set(_fields(default)) - {None, "stem", "ext"} <= set(self.numbers)
        )

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [_pattern(template) for template in (*_DEFAULTS, self._whole)]


def _fields(template: str) -> list[str | None]:
    return [field for _, field, _, _ in Formatter().parse(template)]


def _pattern(template: str) -> re.Pattern[str]:
    """What the stems of such names look like."""
    pattern = ""
    for literal, field, _, _ in Formatter().parse(template.removesuffix("{ext}")):
        pattern += re.escape(literal)
        if field is not None:
            kind = {"stem": ".+", "sample": _SAMPLE}.get(field, r"\d+(?:\.\d+)?")
            seen = f"(?P<{field}>" in pattern
            pattern += f"(?P={field})" if seen else f"(?P<{field}>{kind})"
    return re.compile(f"{pattern}(?:_{_SAMPLE})?")
