"""Functions made by `sync` in the hands of tools that have their own idea of a function."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import flask
import httpx
import joblib
import pytest
import starlette.applications
import starlette.responses
import starlette.routing
import typer
import typer.testing
from click.testing import CliRunner

import palitra

if TYPE_CHECKING:
    from collections.abc import Callable

    from interpreters import Python

pytestmark = pytest.mark.usefixtures("default_executor")


# click and typer


@click.command()
@click.option("--days", default=1)
@palitra.sync
@click.argument("city")
async def click_command(city: str, days: int) -> None:
    """Look into the sky."""
    await asyncio.sleep(0)
    click.echo(f"{city} {days}")


def test_click_makes_commands_of_them_with_options_above_and_below() -> None:
    ran = CliRunner().invoke(click_command, ["Oslo", "--days", "3"])
    helped = CliRunner().invoke(click_command, ["--help"])

    assert (ran.output, ran.exception) == ("Oslo 3\n", None)
    assert "Look into the sky." in helped.output
    assert "CITY" in helped.output


def test_click_groups_and_callbacks_are_made_of_them() -> None:
    @click.group()
    @click.pass_context
    @palitra.sync
    async def group(context: click.Context) -> None:
        context.obj = "Oslo"

    @group.command()
    @click.pass_obj
    @palitra.sync
    async def show(obj: str) -> None:
        click.echo(obj)

    assert CliRunner().invoke(group, ["show"]).output == "Oslo\n"
    assert show.name == "show"


def test_typer_reads_their_annotations() -> None:
    app = typer.Typer()

    @app.command()
    @palitra.sync
    async def show(
        city: str, days: int = 1, path: Annotated[Path, typer.Option(help="Where.")] = Path()
    ) -> None:
        """Look into the sky."""
        typer.echo(repr((city, days, path.name)))

    runner = typer.testing.CliRunner()
    ran = runner.invoke(app, ["Oslo", "--days", "3", "--path", "a/b"])
    assert (ran.output, ran.exception) == ("('Oslo', 3, 'b')\n", None)
    assert runner.invoke(app, ["Oslo", "--days", "three"]).exit_code == 2
    helped = runner.invoke(app, ["--help"]).output
    assert "Look into the sky." in helped
    assert "Where." in helped


# Flask, Starlette


def needs(role: str) -> Callable[[Any], Any]:
    def mark(view: Any) -> Any:
        view.role = role
        return view

    return mark


def test_flask_views_keep_marks_from_above_and_below() -> None:
    app = flask.Flask(__name__)

    @app.get("/below")
    @palitra.sync
    @needs("reader")
    async def below() -> str:
        return "below"

    @app.get("/above/<int:number>")
    @needs("writer")
    @palitra.sync
    async def above(number: int) -> dict[str, int]:
        return {"number": number}

    @app.before_request
    def check() -> tuple[str, int] | None:
        endpoint = flask.request.endpoint
        assert endpoint is not None
        role = getattr(app.view_functions[endpoint], "role", None)
        return None if role == flask.request.args["role"] else ("forbidden", 403)

    client = app.test_client()
    assert client.get("/below?role=reader").text == "below"
    assert client.get("/below?role=writer").status_code == 403
    assert client.get("/above/3?role=writer").json == {"number": 3}
    assert client.get("/above/3?role=reader").status_code == 403
    assert app.ensure_sync(above) is above


def get(app: Any, path: str) -> httpx.Response:
    """Ask an ASGI application, on a loop of its own as under a server."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_starlette_takes_them_as_functions_of_a_request() -> None:
    @palitra.sync
    async def show(request: Any) -> Any:
        return starlette.responses.PlainTextResponse(request.path_params["city"])

    app = starlette.applications.Starlette(routes=[starlette.routing.Route("/{city}", show)])

    assert get(app, "/Oslo").text == "Oslo"


# Documentation


WEATHER = '''
"""Weather."""
import palitra

__all__ = ["Service", "forecast", "numbers"]

@palitra.sync
async def forecast(city: str, days: int = 1) -> str:
    """Look into the sky."""

@palitra.sync
async def numbers(stop: int):
    """Count up."""
    yield stop

class Service:
    """A service."""

    @palitra.sync
    async def forecast(self, city: str) -> str:
        """Of a service."""

    @palitra.sync
    @classmethod
    async def outside(cls, city: str) -> str:
        """Of the class."""

    @palitra.sync
    @staticmethod
    async def static(city: str) -> str:
        """Of nobody."""
'''


def test_sphinx_documents_them_as_functions_and_methods(tmp_path: Path) -> None:
    (tmp_path / "weather.py").write_text(WEATHER)
    (tmp_path / "conf.py").write_text("extensions = ['sphinx.ext.autodoc']\nproject = 'p'\n")
    (tmp_path / "index.rst").write_text(
        "Weather\n=======\n\n.. automodule:: weather\n   :members:\n"
    )
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-n", "-q", "-b", "pseudoxml", ".", "out"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{Path(palitra.__file__).parents[1]}"},
        capture_output=True,
        text=True,
    )

    assert built.stderr == ""
    text = (tmp_path / "out" / "index.pseudoxml").read_text()
    kinds = dict(described(text))
    assert kinds == {
        "weather.forecast": "function",
        "weather.numbers": "function",
        "weather.Service": "class",
        "weather.Service.forecast": "method",
        "weather.Service.outside": "method",
        "weather.Service.static": "method",
    }
    for line in ("Look into the sky.", "Of a service.", "Of the class.", "Of nobody."):
        assert line in text
    assert "classmethod" in text
    assert "async" not in text


def described(text: str) -> list[tuple[str, str]]:
    """Name and kind of each object that a pseudoxml page of Sphinx describes."""
    import re

    kinds = re.findall(r'<desc [^>]*objtype="(\w+)"', text)
    names = re.findall(r'<desc_signature [^>]*ids="([\w.]+)"', text)
    return [*zip(names, kinds, strict=True)]


# Other processes


def test_joblib_sends_them_from_main(python: Python) -> None:
    done = python.run(
        """
        import asyncio
        import joblib
        import palitra

        @palitra.sync
        async def double(x):
            await asyncio.sleep(0)
            return 2 * x

        class Service:
            @palitra.sync
            async def times(self, x):
                return 3 * x

        def caller(x):
            return double.submit(x).result(10)

        if __name__ == "__main__":
            parallel = joblib.Parallel(n_jobs=2, backend="loky")
            for function in double, Service().times, caller, lambda x: double(x) + 1:
                print(parallel(joblib.delayed(function)(x) for x in range(4)))
        """,
        timeout=50,
        options=(),
    )

    assert done.stdout.splitlines() == [
        "[0, 2, 4, 6]", "[0, 3, 6, 9]", "[0, 2, 4, 6]", "[1, 3, 5, 7]",
    ]  # fmt: skip
    assert done.returncode == 0


@palitra.sync
async def cached(city: str) -> str:
    return f"{city}!"


def test_joblib_caches_what_they_return(tmp_path: Path) -> None:
    memory = joblib.Memory(tmp_path, verbose=0)
    remembered = memory.cache(cached)

    assert not remembered.check_call_in_cache("Oslo")
    assert remembered("Oslo") == remembered("Oslo") == "Oslo!"
    assert remembered.check_call_in_cache("Oslo")
    assert not remembered.check_call_in_cache("Rome")


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_a_process_pool_takes_them_from_main(start_method: str, python: Python) -> None:
    done = python.run(
        """
        import json
        import multiprocessing
        import sys
        from concurrent.futures import ProcessPoolExecutor

        import palitra

        @palitra.sync
        async def double(x):
            return 2 * x

        class Service:
            @palitra.sync
            async def times(self, x):
                return 3 * x

            @palitra.sync
            @classmethod
            async def of_class(cls, x):
                return [cls.__name__, x]

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                for function in double, Service().times, Service.of_class:
                    print(json.dumps([*pool.map(function, range(2))]))
        """,
        start_method,
        options=("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
        timeout=50,
    )

    assert done.stderr == ""
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers == [[0, 2], [0, 3], [["Service", 0], ["Service", 1]]]


def test_functools_caches_what_they_return() -> None:
    asked = []

    @functools.lru_cache
    @palitra.sync
    async def look(city: str) -> str:
        asked.append(city)
        return city

    assert [look("Oslo"), look("Oslo"), look("Rome")] == ["Oslo", "Oslo", "Rome"]
    assert asked == ["Oslo", "Rome"]
