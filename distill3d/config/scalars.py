"""Words of YAML as they are written, so that a setting that is text never goes through a number.

YAML reads 17302_00001 as 1730200001, 010 as 8, 1e3 as 1000.0 and yes as true. Which setting is text is known only to
the schema, after files are merged. Until then such a word travels as marked text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf

_MARK = "\ue000"  # for private use, in no file


def parse(text: str) -> Any:  # noqa: ANN401 - whatever YAML can say
    """Read the value of an override, with its words marked. What is no YAML is text, such as ``{stem}_0000``.

    So is what a file would take for a comment or an anchor, since a command line has neither.

    >>> parse("/data/exp #1"), parse("&x y"), parse(" [1, 2]")
    ('/data/exp #1', '&x y', [1, 2])
    """
    if _in_braces(text):
        return text
    try:
        typed, node = _typed(text), yaml.compose(text)
    except yaml.YAMLError:
        return text
    if node is None:
        return text if text.strip() else typed
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if text[node.end_mark.index :].strip() or (is_plain and node.value != text.strip()):
        return text
    return mark(typed, node, text)


def quoted(text: str) -> str:
    """Write text as the value of an override: as it is where that is read back, else in quotes.

    >>> quoted("exp #2/a"), quoted("lab: a"), quoted("010")
    ('exp #2/a', '"lab: a"', '"010"')
    """
    return text if parse(text) == text else json.dumps(text, ensure_ascii=False)


def _typed(text: str) -> Any:  # noqa: ANN401 - as above
    """Return what OmegaConf makes of YAML."""
    plain: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    return plain["value"]


def mark(typed: Any, node: yaml.Node, source: str) -> Any:  # noqa: ANN401 - as above
    """Mark those words of settings that are no text, and look different as what they were read as.

    Args:
        typed: plain containers, as OmegaConf reads the source.
        node: the same, as YAML composes it.
        source: that both were read from.
    """
    if isinstance(node, yaml.MappingNode) and isinstance(typed, Mapping):
        if node.flow_style and _in_braces(words := source[node.start_mark.index : node.end_mark.index]):
            return words
        nodes = {key.value: value for key, value in node.value}
        return {
            key: mark(value, nodes[str(key)], source) if str(key) in nodes else value for key, value in typed.items()
        }
    if isinstance(node, yaml.SequenceNode) and isinstance(typed, list) and len(typed) == len(node.value):
        return [_word(value, each) or mark(value, each, source) for value, each in zip(typed, node.value, strict=True)]
    return typed if typed is None else _word(typed, node) or typed


def _word(typed: Any, node: yaml.Node) -> str:  # noqa: ANN401 - as above
    """Return the marked word, empty where it was read as what it says."""
    if not isinstance(node, yaml.ScalarNode) or isinstance(typed, str) or node.value in ("", str(typed)):
        return ""
    return f"{_MARK}{node.value}"


def _in_braces(text: str) -> bool:
    """Say whether text is a word in braces, which YAML would read as a mapping of the word to nothing."""
    text = text.strip()
    return text.startswith("{") and text.endswith("}") and not set(text[1:-1]) & set("{}[]:,'\" ") and len(text) > 2


def unmark(settings: Any, path: str = "") -> tuple[Any, dict[str, str]]:  # noqa: ANN401 - as above
    """Return settings as YAML reads them, and dotted path -> the word itself where that is another."""
    if isinstance(settings, str) and _MARK in settings:
        word = settings.replace(_MARK, "")  # an interpolation may have put it amid other text
        return (_typed(word), {path: word}) if settings.startswith(_MARK) else (word, {})
    if not isinstance(settings, Mapping | list):
        return settings, {}
    words: dict[str, str] = {}
    plain: dict[Any, Any] = {}
    for key, value in _items(settings):
        plain[key], inner = unmark(value, _below(path, key))
        words |= inner
    return (plain if isinstance(settings, Mapping) else [*plain.values()]), words


def as_written(given: Any, path: str, words: Mapping[str, str]) -> Any:  # noqa: ANN401 - as above
    """Return what a setting at a dotted path was written as, from what it was read as and the words of `unmark`."""
    if isinstance(given, Mapping):
        return {key: as_written(value, _below(path, key), words) for key, value in given.items()}
    if isinstance(given, list):
        return [as_written(value, _below(path, place), words) for place, value in enumerate(given)]
    return words.get(path, given)


def is_text(hint: Any) -> bool:  # noqa: ANN401 - a type hint
    """Whether a setting of this type holds text and nothing else: ``str``, ``str | None``, ``tuple[str, ...]``."""
    inner = [each for each in get_args(hint) if each not in (Ellipsis, type(None))]
    return all(is_text(each) for each in inner) if inner else hint is str


def _items(settings: Mapping[Any, Any] | list[Any]) -> Iterator[tuple[Any, Any]]:
    yield from settings.items() if isinstance(settings, Mapping) else enumerate(settings)


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
