"""The same page in fewer bytes: what a parser of HTML fills in by itself is left out."""

import re

#: Of these HTML leaves out the end where the next of its kind, or its parent's end, follows, as it
#: always does here; white space up to there is none of its content.
_ENDS = re.compile(r"</(?:li|td|th|tr|dt|dd|thead|tbody|option)>\s*")

#: A tag, whose values have no angle brackets; and a value that needs no quotes.
_TAG = re.compile(r"<[a-z][^<>]*>")
_VALUE = re.compile(r'="([A-Za-z0-9_.:%#+-]+)"')

#: Text whose quotes are no attribute's.
_TEXT = re.compile(r">[^<>]+<")

#: What is no markup of ours, or not read as HTML.
_VERBATIM = re.compile(r"(<(?:style|script)\b.*?</(?:style|script)>)", re.DOTALL)


def compact(page: str) -> str:
    """A whole page whose elements, attributes and texts stay as they are."""
    parts = _VERBATIM.split(page)
    parts[::2] = map(_compact, parts[::2])
    return _share("".join(parts))


def _compact(text: str) -> str:
    text = _TAG.sub(lambda tag: _unquoted(tag[0]), _ENDS.sub("", text))
    return _TEXT.sub(lambda one: _plain(one[0]), text)


def _plain(text: str) -> str:
    """Text with what need not be escaped in it; before a space & begins no name."""
    return text.replace("&#34;", '"').replace("&#39;", "'").replace("&amp; ", "& ")


def _unquoted(tag: str) -> str:
    short = _VALUE.sub(r"=\1", tag)
    # Without quotes a slash would be the value's.
    return f"{short[:-2]} />" if short.endswith("/>") and not short.endswith('"/>') else short


#: What pictures whose axes have the same numbers share, and where the page keeps it.
_ACROSS = re.compile(r"<g class=across>.*?</g><text[^<]*</text><text[^<]*</text></g>")
_SHARED = "</defs></svg>"


def _share(page: str) -> str:
    """The part of axes that pictures have in common once, beside the markers."""
    numbers: dict[str, int] = {}

    def named(part: re.Match[str]) -> str:
        return f"<use href=#a{numbers.setdefault(part[0], len(numbers))} />"

    page = _ACROSS.sub(named, page)
    kept = "".join(
        f"<g id=a{number} {part.removeprefix('<g ')}" for part, number in numbers.items()
    )
    return page.replace(_SHARED, kept + _SHARED, 1)
