"""What `sync` makes in `__main__` is sent to other processes by cloudpickle, by value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from interpreters import Python

# Sends one thing, under many guises, to a process that knows nothing of this program.
SENDER = """
import asyncio
import base64
import functools
import pickle
import sys

import cloudpickle
import palitra

FACTOR = 2
{definitions}

class Box:
    def __init__(self, content):
        self.content = content


sent = {sent}
with open(sys.argv[1], "wb") as file:
    file.write(cloudpickle.dumps(sent))
palitra.shutdown()
"""

RECEIVER = """
import pickle
import sys

with open(sys.argv[1], "rb") as file:
    received = pickle.load(file)
{use}
"""

DOUBLE = """
def noted(fn):
    fn.below = True
    return fn

@palitra.sync
@noted
async def double(x: int) -> int:
    '''Twice as much.'''
    await asyncio.sleep(0)
    return FACTOR * x
double.above = True
"""

SERVICE = """
class Service:
    def __init__(self, factor):
        self.factor = factor

    @palitra.sync
    async def times(self, x):
        return self.factor * x

    @palitra.sync
    async def up_to(self, stop):
        for x in range(stop):
            yield self.factor * x

    @palitra.sync
    @classmethod
    async def outside(cls, x):
        return [cls.__name__, x]

    @classmethod
    @palitra.sync
    async def inside(cls, x):
        return [cls.__name__, x]

    @palitra.sync
    @staticmethod
    async def static(x):
        return 2 * x
"""

OTHERS = """
@palitra.sync
async def up_to(stop):
    for x in range(stop):
        await asyncio.sleep(0)
        yield x

@palitra.sync
async def factorial(x):
    if x < 2:
        return 1
    return x * await factorial.__wrapped__(x - 1)

def made(factor):
    @palitra.sync
    async def times(x):
        return factor * x
    return times

plain = palitra.sync(lambda x: asyncio.sleep(0, 2 * x))

class Times:
    def __init__(self, factor):
        self.factor = factor
    async def __call__(self, x):
        return self.factor * x

async def multiply(x, y):
    return x * y
"""


@pytest.mark.parametrize(
    ("definitions", "sent", "use"),
    [
        pytest.param(
            DOUBLE,
            "double",
            """
import inspect
assert received(21) == received.submit(21).result(10) == 42
assert (received.__name__, received.__doc__) == ("double", "Twice as much.")
assert str(inspect.signature(received)) == "(x: int) -> int"
assert inspect.isfunction(received) and not inspect.iscoroutinefunction(received)
assert received.below and received.above
""",
            id="a function",
        ),
        pytest.param(
            DOUBLE + "def caller(x):\n    return double(x), double.submit(x).result(10)\n",
            "caller",
            "assert received(21) == (42, 42)",
            id="a function that calls one",
        ),
        pytest.param(
            DOUBLE,
            "[double, {1: double}, functools.partial(double, 21), Box(double), double.submit]",
            """
function, table, partial, box, submit = received
assert table[1] is box.content is partial.func is function
assert partial() == 42
assert submit(21).result(10) == 42
""",
            id="one among other things",
        ),
        pytest.param(
            DOUBLE,
            "double",
            """
import cloudpickle
again = pickle.loads(cloudpickle.dumps([received, received.submit]))
assert again[0](21) == again[0].submit(21).result(10) == again[1](21).result(10) == 42
""",
            id="one that is sent on",
        ),
        pytest.param(
            OTHERS,
            "up_to, factorial, made(2), made, plain",
            """
import inspect
up_to, factorial, times, made, plain = received
assert list(up_to(3)) == [0, 1, 2]
assert inspect.isgeneratorfunction(up_to) and not hasattr(up_to, "submit")
assert factorial(5) == factorial.submit(5).result(10) == 120
for twice in times, made(2):
    assert twice(21) == twice.submit(21).result(10) == 42
assert plain(21) == plain.submit(21).result(10) == 42
""",
            id="generators, recursion, closures, lambdas",
        ),
        pytest.param(
            OTHERS,
            "palitra.sync(Times(2)), palitra.sync(functools.partial(multiply, 2))",
            """
for function in received:
    assert function(21) == function.submit(21).result(10) == 42
""",
            id="objects and partials",
        ),
        pytest.param(
            SERVICE,
            "[(one := Service(2)).times, Service.times, Service.outside, Service.static, one.up_to,"
            "one.times.submit]",
            """
bound, unbound, outside, static, up_to, submit = received
assert submit(21).result(10) == 42
service = bound.__self__
assert bound(21) == bound.submit(21).result(10) == unbound(service, 21) == 42
assert unbound.submit(service, 21).result(10) == 42
assert outside(1) == outside.submit(1).result(10) == ["Service", 1]
assert static(21) == static.submit(21).result(10) == 42
assert list(up_to(3)) == [0, 2, 4]
""",
            id="methods",
        ),
        pytest.param(
            SERVICE,
            "Service",
            """
service = received(2)
assert service.times(21) == received.static(21) == service.static(21) == 42
assert service.outside(1) == received.inside(1) == ["Service", 1]
assert list(service.up_to(3)) == [0, 2, 4]
assert service.times.submit(21).result(10) == received.times.submit(service, 21).result(10) == 42
assert service.outside.submit(1).result(10) == ["Service", 1]

class Derived(received):
    def times(self, x):
        return super().times(x) + 1

assert Derived(2).times(21) == 43
""",
            id="a class",
        ),
    ],
)
def test_it_arrives(definitions: str, sent: str, use: str, python: Python, tmp_path: Path) -> None:
    file = str(tmp_path / "sent")
    program = SENDER.format(definitions=definitions, sent=sent)

    for done in (python.run(program, file), python.run(RECEIVER.format(use=use), file)):
        assert done.stderr == ""
        assert done.returncode == 0


def test_a_class_that_is_sent_keeps_its_methods_in_the_sender(python: Python) -> None:
    # cloudpickle sets the attributes of a class anew where what it has sent is read again.
    done = python.run(f"""
import cloudpickle
import pickle
import palitra
{SERVICE}
before = Service.times
for _ in range(2):
    assert pickle.loads(cloudpickle.dumps(Service)) is Service
    assert type(vars(Service)["times"]) is type(before)
    assert Service(2).times.submit(21).result(10) == 42
    assert cloudpickle.dumps(Service(2).times) == cloudpickle.dumps(Service(2).times)
""")

    assert done.stderr == ""
    assert done.returncode == 0


def test_from_a_module_it_is_sent_by_name_unless_the_module_is_registered(
    python: Python, tmp_path: Path
) -> None:
    (tmp_path / "weather.py").write_text(
        "import palitra\n@palitra.sync\nasync def forecast(city):\n    return city\n"
    )
    done = python.run("""
        import pickle
        import cloudpickle
        import weather

        assert pickle.loads(cloudpickle.dumps(weather.forecast)) is weather.forecast
        cloudpickle.register_pickle_by_value(weather)
        other = pickle.loads(cloudpickle.dumps(weather.forecast))
        assert other is not weather.forecast
        assert other("Oslo") == other.submit("Oslo").result(10) == "Oslo"
        assert pickle.loads(pickle.dumps(weather.forecast)) is weather.forecast
    """)

    assert done.stderr == ""
    assert done.returncode == 0


def test_what_asks_for_its_class_or_its_pickle_may_have_no_python_code(python: Python) -> None:
    done = python.run("""
        import atexit
        import pickle
        import palitra

        @palitra.sync
        async def double(x):
            return 2 * x

        atexit.register(isinstance, double, int)
        atexit.register(pickle.dumps, double)
    """)

    assert done.stderr == ""
    assert done.returncode == 0


def test_one_of_an_explicit_executor_is_refused_and_the_error_says_what_to_use(
    python: Python,
) -> None:
    done = python.run("""
        import cloudpickle
        import palitra

        def main():
            with palitra.AsyncLoopExecutor() as executor:
                @executor.sync
                async def double(x):
                    return 2 * x

                try:
                    cloudpickle.dumps(double)
                except Exception as error:
                    print(type(error).__name__, error)
                print(double(21))

        main()
    """)

    assert done.stderr == ""
    assert "use palitra.sync" in done.stdout
    assert done.stdout.splitlines()[-1] == "42"
