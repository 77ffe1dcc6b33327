"""Values as a terminal may be shown them: on one line, without control characters, and without passwords."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

#: What stands between a URL's scheme and its host. A password that was not quoted may have any sign in it.
_USER: Final = re.compile(r"(://[^\s:/@]*):.*@", re.DOTALL)
_QUERY: Final = re.compile(r"(?i)([?&][^\s=&]*pass[^\s=&]*=)[^\s&'\"]+")


def printable(text: str) -> str:
    """Return a text with whatever is not printable escaped, so that it can neither move a cursor nor feign a line."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def safe(text: str) -> str:
    """Return a message for a person: printable, and with the passwords of URLs masked.

    The library's own messages show none; this is for what a person typed and argparse quotes.
    """
    return printable(_QUERY.sub(r"\1***", _USER.sub(r"\1:***@", text)))


def ago(seconds: float) -> str:
    """Return for how long something has been, in the largest unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"  # clocks of two machines differ


def date(at: float) -> str:
    """Return POSIX seconds as a date in UTC; as a number if no calendar has it."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{at:g}"


def as_json(value: Mapping[str, object]) -> str:
    """Return a mapping as JSON on one line, in ASCII.

    JSON has no NaN and no infinities (RFC 8259, 6), which configurations and metrics may have: they become strings.
    """
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in cast("list[object]", value)]
    return value
