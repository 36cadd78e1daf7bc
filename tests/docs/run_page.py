"""Run the code of one Markdown page from top to bottom, as a reader would: ``run_page.py PAGE``.

A ``python`` block is executed, a ``pycon`` block is a doctest, and an ``output`` block must equal
what the blocks since the last ``output`` block printed (``...`` stands for anything).  All blocks
of a page share one ``__main__``.  The languages in ``NOT_EXECUTED`` are shown only; any other is
an error, so that no block escapes by a slip of the pen.
"""

import contextlib
import doctest
import io
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

NOT_EXECUTED = {"console", "text", "toml", "ini"}
EXECUTED = {"python", "pycon", "output"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page that it starts after."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of *page* that are not directives such as ``{note}``."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    found = []
    for token in tokens:
        if token.type == "fence" and not token.info.startswith("{"):
            assert token.map is not None
            found.append(Block(token.info.strip(), token.content, token.map[0] + 1))
    return found


def run(page: Path) -> None:
    """Run the blocks of *page*; the first that fails raises, with the page's own line numbers."""
    main = types.ModuleType("__main__")
    main.__file__ = str(page)
    sys.modules["__main__"] = main
    printed = io.StringIO()
    for block in blocks(page):
        if block.language in NOT_EXECUTED:
            continue
        where = f"{page}, line {block.line + 1}"
        if block.language == "output":
            got, want = printed.getvalue(), block.text
            if not doctest.OutputChecker().check_output(want, got, FLAGS):
                raise AssertionError(f"{where}: expected\n{want}\ngot\n{got}")
            printed = io.StringIO()
            continue
        with contextlib.redirect_stdout(printed):
            if block.language == "python":
                code = compile("\n" * block.line + block.text, str(page), "exec")
                exec(code, main.__dict__)
            elif block.language == "pycon":
                test = doctest.DocTestParser().get_doctest(
                    block.text, main.__dict__, str(page), str(page), block.line
                )
                test.globs = main.__dict__
                doctest.DebugRunner(optionflags=FLAGS).run(test, clear_globs=False)
            else:
                raise AssertionError(f"{where}: a block in {block.language!r}: unknown language")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
