# SPDX-License-Identifier: Apache-2.0
"""The fenced blocks of the manual, and what their info strings say about how they are typed.

    ```console run=systemd
    $ vtpmctl guest list --json | jq -r '.guests[].guest'
    web1
    ```

A line that begins with `$ ` is a command (two blanks continue one that ends in a backslash), the
others are what it prints: exactly that, `...` on a line of its own being any lines, within a line
any text. Every command has a shell of its own.

| mark               | meaning                                                                    |
|--------------------|----------------------------------------------------------------------------|
| run=WORLD          | where it is typed, see `manual_worlds`; all blocks of a page that name the |
|                    | same world are typed there one after the other                             |
| in=checkout        | in the folder of the suite; else in an empty one                           |
| keep               | the command stays in the foreground once it has printed what is shown      |
| again              | before it, what is kept is ended with Ctrl-C and started once more         |
| stderr             | what is shown is standard error as well; it is not looked at otherwise     |
| fails              | the last command ends with another exit code than 0                        |
| skip-because="..." | it cannot be typed by a test, for this reason                              |
| typed-by=FILE      | a test of its own types the whole page into one shell, so that what one    |
|                    | command sets the next one can use                                          |

Blocks of other languages hold no commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
ELLIPSIS: Final = "..."
CONSOLE: Final = "console"
LANGUAGES: Final = frozenset({CONSOLE, "text", "toml", "json"})
FLAGS: Final = frozenset({"keep", "again", "stderr", "fails"})
KEYS: Final = frozenset({"run", "in", "skip-because", "typed-by"})
_BLOCK: Final = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command and what the manual says that it prints."""

    command: str
    output: tuple[str, ...]

    def accepts(self, shown: str) -> bool:
        """Whether what was shown is what the manual says."""
        pattern = "".join(
            r"(?:.*\n)*"
            if line == ELLIPSIS
            else ".*".join(re.escape(part) for part in line.split(ELLIPSIS)) + r"\n"
            for line in self.output
        )
        return re.fullmatch(pattern, shown) is not None


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        where: page and line, for messages.
        language: first word of its info string, may be empty.
        keys: marks with a value.
        flags: marks without.
        text: its lines.
    """

    where: str
    language: str
    keys: dict[str, str]
    flags: frozenset[str]
    text: str = field(repr=False)

    @property
    def commands(self) -> list[Typed]:
        """What is typed, in order.

        Raises:
            AssertionError: a line stands before the first command.
        """
        typed: list[Typed] = []
        # A command goes on where its line ends in a backslash.
        for line in self.text.replace("\\\n  ", "").splitlines():
            if line.startswith("$ "):
                typed.append(Typed(line[2:], ()))
            else:
                assert typed, f"{self.where}: {line!r} is printed by no command"
                last = typed.pop()
                typed.append(Typed(last.command, (*last.output, line)))
        return typed


def pages() -> list[Path]:
    """Return the pages whose blocks are looked at."""
    return [ROOT / "README.md", ROOT / "systemd/README.md", *sorted(ROOT.glob("docs/*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """Return all blocks of a page."""
    text = page.read_text()
    assert text.count("```") == 2 * len(_BLOCK.findall(text)), f"{page}: a fence without its end"
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        language, *marks = shlex.split(match[2]) or [""]
        pairs = [mark.partition("=") for mark in marks]
        found.append(
            Block(
                f"{page.relative_to(ROOT)}:{line}",
                language,
                {key: value for key, equals, value in pairs if equals},
                frozenset(key for key, equals, _ in pairs if not equals),
                re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE),
            )
        )
    return found


def typed_in(world: str, blocks: Sequence[Block]) -> list[Block]:
    """Return those of a page's blocks that are typed in a world."""
    return [block for block in blocks if block.keys.get("run") == world]
