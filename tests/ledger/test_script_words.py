"""Scripts are put together by replacing words: what may not be hit is not, and what has to be is."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from broker.ledger import scripts

_TOKEN = re.compile(r"--[^\n]*|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|[A-Za-z_]\w*|\s+|.", re.DOTALL)


def _tokens(text: str) -> list[str]:
    """Lua's words, as Lua itself tells texts from code; without blanks."""
    return [token for token in _TOKEN.findall(text) if not token.isspace()]


def _code(text: str) -> list[str]:
    return [token for token in _tokens(text) if not token.startswith("--")]


def _texts(text: str) -> list[str]:
    return [token for token in _code(text) if token[0] in "'\""]


def _sources(command: str) -> dict[str, str]:
    """A command's own file and all that is put into it, by name."""
    own = files("broker.lua").joinpath(f"{command}.lua").read_text("utf-8")
    listed = [*scripts._listed(scripts._INCLUDE, own), *scripts._listed(scripts._NEEDS, own)]
    found = {name: scripts._read(f"include/{name}.lua") for name in scripts._reachable(listed)}
    return {f"{command}.lua": own, **found}


@pytest.mark.parametrize("command", scripts.names())
def test_texts_are_sent_as_they_are_written(command: str) -> None:
    sent = [token for token in _texts(scripts.script(command).text) if not token.startswith("'gpubroker")]
    for name, source in _sources(command).items():
        assert all("--" not in text for text in _texts(source)), f"{name}: code is taken to end at two dashes"
        assert set(_texts(source)) <= set(sent), name
    assert not [text for text in sent if re.search(r"\bour\.|\bseldom\.|KEYS\[", text)]


def _locals(code: str) -> set[str]:
    """Names of local values and parameters."""
    own = set(re.findall(r"\blocal function (\w+)", code))
    for some in re.findall(r"\b(?:local|for) ((?:\w+ , )*\w+)|\bfunction [\w. ]*\( ([\w ,]*)\)", code):
        own |= set(re.findall(r"\w+", " ".join(some)))
    return own


def _given(sources: dict[str, str], header: re.Pattern[str]) -> set[str]:
    return {word for text in sources.values() for word in scripts._listed(header, text)}


@pytest.mark.parametrize("command", scripts.names())
def test_no_local_name_is_taken_for_what_an_include_gives(command: str) -> None:
    sources = _sources(command)
    gives, shares = _given(sources, scripts._GIVES), _given(sources, scripts._SHARES)
    for name, text in sources.items():
        code = " ".join(_code(text))
        own = _locals(code)
        assert not own & shares, f"{name}: it would become a field of a table"
        called = {word for word in own & gives if re.search(rf"(?<![.:] )\b{word} \(", code)}
        assert not called, f"{name}: the include's would be called instead"


@pytest.mark.parametrize("command", scripts.names())
def test_what_an_include_gives_is_only_called(command: str) -> None:
    sources = _sources(command)
    gives = _given(sources, scripts._GIVES)
    for name, text in sources.items():
        code = _code(text)
        own = _locals(" ".join(code))
        loose = {
            word for before, word, after in zip(code, code[1:], code[2:], strict=False)
            if word in gives - own and before != "." and after not in ("(", "=")
        }  # fmt: skip
        assert not loose, f"{name}: passed on by its name it is not found in its table"
