"""What `sync` makes is accepted wherever a function is: what the standard library asks of one."""

from __future__ import annotations

import abc
import asyncio
import copy
import doctest
import functools
import gc
import inspect
import io
import pickle
import pydoc
import sys
import types
import typing
import unittest
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import pytest

import palitra
from contract.gates import PATIENCE
from palitra import AsyncLoopExecutor

Any = typing.Any


def noted(name: str) -> Callable[[Any], Any]:
    """A decorator that does as many of frameworks do: it notes something on the function."""

    def note(fn: Any) -> Any:
        setattr(fn, name, True)
        return fn

    return note


@noted("above")
@palitra.sync
@noted("below")
async def forecast(city: str, days: int = 1) -> str:
    """Look into the sky.

    >>> forecast("Oslo")
    'Oslo 1'
    """
    await asyncio.sleep(0)
    return f"{city} {days}"


@palitra.sync
async def numbers(stop: int) -> AsyncIterator[int]:
    """Count up."""
    for number in range(stop):
        yield number


class Service:
    """Methods of each kind."""

    prefix = "in"

    @palitra.sync
    @noted("below")
    async def forecast(self, city: str, days: int = 1) -> str:
        """Look into the sky of a service."""
        return f"{self.prefix} {city} {days}"

    @palitra.sync
    @classmethod
    async def outside(cls, city: str) -> str:
        """Of the class, decorated outside."""
        return f"{cls.__name__} {city}"

    @classmethod
    @palitra.sync
    async def inside(cls, city: str) -> str:
        """Of the class, decorated inside."""
        return f"{cls.__name__} {city}"

    @palitra.sync
    @staticmethod
    async def static_outside(city: str) -> str:
        return city

    @staticmethod
    @palitra.sync
    async def static_inside(city: str) -> str:
        return city

    @palitra.sync
    async def numbers(self, stop: int) -> AsyncIterator[int]:
        for number in range(stop):
            yield number

    @property
    @palitra.sync
    async def weather(self) -> str:
        """The weather."""
        return "fair"


class Forecaster:
    """An object that is called as a coroutine function is."""

    def __init__(self) -> None:
        self.csrf_exempt = True

    async def __call__(self, city: str, days: int = 1) -> str:
        return f"{city} {days}"


HINTS = {"city": str, "days": int, "return": str}


@pytest.fixture(autouse=True)
def no_default_left() -> Any:
    yield
    palitra.shutdown()


# inspect


@pytest.mark.parametrize("fn", [forecast, Service.forecast, numbers, Service.numbers])
def test_it_is_a_function(fn: Any) -> None:
    assert inspect.isfunction(fn)
    assert inspect.isroutine(fn)
    assert isinstance(fn, types.FunctionType)
    assert not inspect.ismethod(fn)
    assert not inspect.ismethoddescriptor(fn)
    assert not inspect.isdatadescriptor(fn)
    assert not inspect.iscoroutinefunction(fn)
    assert not inspect.isasyncgenfunction(fn)
    assert inspect.isgeneratorfunction(fn) == ("numbers" in fn.__name__)


@pytest.mark.parametrize(
    "method",
    [Service().forecast, Service().numbers, Service.outside, Service().outside, Service().inside],
)
def test_bound_it_is_a_method(method: Any) -> None:
    assert inspect.ismethod(method)
    assert inspect.isroutine(method)
    assert isinstance(method, types.MethodType)
    assert not inspect.isfunction(method)
    assert not inspect.iscoroutinefunction(method)
    assert not inspect.isasyncgenfunction(method)
    assert inspect.isgeneratorfunction(method) == (method.__name__ == "numbers")


def test_a_bound_method_knows_its_object_and_its_function() -> None:
    service = Service()
    method: Any = service.forecast

    assert method.__self__ is service
    assert method.__func__ is Service.forecast
    assert method.__name__ == "forecast"
    assert method.__qualname__ == "Service.forecast"
    assert method.__module__ == __name__
    assert method.__doc__ == "Look into the sky of a service."
    assert method.__wrapped__ == Service.forecast.__wrapped__.__get__(service)
    assert "Service.forecast" in repr(method)
    outside: Any = service.outside
    assert outside.__self__ is Service


def test_of_a_bound_method_it_makes_a_bound_method(executor: AsyncLoopExecutor) -> None:
    class Plain:
        async def method(self, value: int) -> int:
            return value

    plain = Plain()
    methods: list[Any] = [executor.sync(plain.method), palitra.sync(plain.method)]
    assert all(map(inspect.ismethod, methods))
    for method in methods:
        assert method.__self__ is plain
        assert method.__wrapped__ == plain.method
        assert str(inspect.signature(method)) == "(value: 'int') -> 'int'"
        assert method.submit(3).result(PATIENCE) == method(3) == 3


def test_bound_methods_are_equal_as_methods_are() -> None:
    one, two = Service(), Service()

    assert one.forecast == one.forecast
    assert hash(one.forecast) == hash(one.forecast)
    assert one.forecast != two.forecast
    assert one.forecast != one.numbers
    assert {one.forecast: 1}[one.forecast] == 1


def test_it_is_found_among_the_functions_of_its_module_and_class() -> None:
    functions = dict(inspect.getmembers(sys.modules[__name__], inspect.isfunction))
    methods = dict(inspect.getmembers(Service(), inspect.ismethod))
    kinds = {kind.name: kind.kind for kind in inspect.classify_class_attrs(Service)}

    assert functions["forecast"] is forecast
    assert {"forecast", "numbers", "outside", "inside"} <= methods.keys()
    assert kinds["forecast"] == kinds["numbers"] == "method"
    assert kinds["outside"] == kinds["inside"] == "class method"
    assert kinds["static_outside"] == kinds["static_inside"] == "static method"


def test_its_source_and_its_original_are_found() -> None:
    assert "Look into the sky." in inspect.getsource(forecast)
    assert "of a service" in inspect.getsource(Service().forecast)
    assert inspect.getmodule(forecast) is sys.modules[__name__]
    unwrapped = inspect.unwrap(forecast)
    assert inspect.iscoroutinefunction(unwrapped)
    assert unwrapped.__code__.co_name == "forecast"
    assert inspect.unwrap(Service().forecast).__code__.co_name == "forecast"


def test_its_code_is_not_that_of_a_coroutine_function() -> None:
    for fn in (forecast, numbers):
        flags = fn.__code__.co_flags
        assert not flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR)
    assert inspect.getclosurevars(forecast)
    assert inspect.getfullargspec(forecast).varargs == "args"


def test_a_copy_of_its_code_calls_it() -> None:
    # As tools do that must have another function of the same code.
    fn: Any = forecast
    other = types.FunctionType(fn.__code__, fn.__globals__, "other", None, fn.__closure__)

    assert other("Oslo", days=2) == "Oslo 2"


# Annotations and signatures


@pytest.mark.parametrize(
    "fn",
    [
        forecast,
        Service().forecast,
        Service.forecast,
        palitra.sync(Forecaster()),
        palitra.sync(functools.partial(Forecaster().__call__)),
    ],
)
def test_its_annotations_are_those_of_the_original(fn: Any) -> None:
    hints = typing.get_type_hints(fn)

    assert {name: hints[name] for name in HINTS} == HINTS
    assert list(fn.__annotations__) == list(hints)
    assert list(inspect.get_annotations(fn)) == list(hints)
    assert [*inspect.signature(fn).parameters][-2:] == ["city", "days"]


def test_its_annotations_may_be_replaced() -> None:
    async def original(value: int) -> int:
        return value

    function: Any = palitra.sync(original)
    function.__annotations__ = {"value": str}
    function.__signature__ = inspect.Signature()

    assert typing.get_type_hints(function) == {"value": str}
    assert str(inspect.signature(function)) == "()"
    assert original.__annotations__ == {"value": "int", "return": "int"}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are lazy since 3.14")
def test_names_of_annotations_may_be_defined_later() -> None:
    namespace: dict[str, Any] = {"sync": palitra.sync, "__name__": __name__}
    program = (
        "@sync\n"
        "async def fn(value: Later) -> Later:\n"
        "    return value\n"
        "class C:\n"
        "    @sync\n"
        "    async def fn(self, value: Later) -> Later:\n"
        "        return value\n"
    )
    exec(compile(program, "later", "exec", dont_inherit=True), namespace)
    fn, method = namespace["fn"], namespace["C"]().fn
    for one in (fn, method):
        with pytest.raises(NameError):
            one.__annotations__  # noqa: B018

    namespace["Later"] = int
    for one in (fn, method):
        assert one.__annotations__ == {"value": int, "return": int}
        assert typing.get_type_hints(one) == {"value": int, "return": int}
    assert fn(3) == method(3) == 3


def test_singledispatch_registers_it_by_its_annotations() -> None:
    @functools.singledispatch
    def show(value: object) -> str:
        return "?"

    @show.register
    @palitra.sync
    async def show_int(value: int) -> str:
        return f"int {value}"

    @show.register(str)
    @palitra.sync
    async def show_text(value: Any) -> str:
        return f"text {value}"

    assert [show(1), show("a"), show(None)] == ["int 1", "text a", "?"]
    assert inspect.isfunction(show_int)


def test_singledispatchmethod_binds_it() -> None:
    class Shows:
        name = "shows"

        @functools.singledispatchmethod
        def show(self, value: object) -> str:
            return "?"

        @show.register
        @palitra.sync
        async def _(self, value: int) -> str:
            return f"{self.name} int {value}"

    assert Shows().show(1) == "shows int 1"
    assert Shows().show("a") == "?"


# Attributes


def test_attributes_are_kept_from_below_and_from_above() -> None:
    service = Service()

    assert forecast.below
    assert forecast.above
    assert vars(forecast) == {"below": True, "above": True, "__wrapped__": forecast.__wrapped__}
    assert not hasattr(forecast.__wrapped__, "above")
    assert service.forecast.below  # type: ignore[attr-defined,unused-ignore]
    assert vars(service.forecast) == vars(Service.forecast)
    assert not hasattr(forecast, "csrf_exempt")
    exempt: Any = palitra.sync(Forecaster())
    assert exempt.csrf_exempt


def test_attributes_may_be_set_and_deleted() -> None:
    async def original() -> None: ...

    function: Any = palitra.sync(original)
    function.__name__ = "renamed"
    function.__doc__ = "Another."
    function.mark = [1]
    assert (function.__name__, function.__doc__, function.mark) == ("renamed", "Another.", [1])
    assert "mark" in dir(function)
    del function.mark
    assert not hasattr(function, "mark")
    assert original.__name__ == "original"


def test_a_bound_method_refuses_attributes_as_methods_do() -> None:
    method: Any = Service().forecast

    with pytest.raises(AttributeError):
        method.mark = True


def test_the_marks_of_coroutine_functions_are_not_kept() -> None:
    def returns_awaitable() -> Any:
        return asyncio.sleep(0, "done")

    marked: Any = returns_awaitable
    marked._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", object())
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(marked)
    marked.kept = True
    function: Any = palitra.sync(marked)

    assert not inspect.iscoroutinefunction(function)
    assert vars(function) == {"kept": True, "__wrapped__": marked}
    assert function() == function.submit().result(PATIENCE) == "done"


def test_its_submit_is_not_that_of_a_decorator_below() -> None:
    async def original(value: int) -> int:
        return value

    original.submit = None  # type: ignore[attr-defined]

    assert palitra.sync(original).submit(3).result(PATIENCE) == 3


def test_a_wrapper_gets_its_attributes_but_not_its_submit() -> None:
    @functools.wraps(forecast)
    def wrapper(*args: Any, **kwargs: Any) -> str:
        return f"wrapped {forecast(*args, **kwargs)}"

    assert wrapper("Oslo") == "wrapped Oslo 1"
    assert wrapper.__name__ == "forecast"
    assert wrapper.below  # type: ignore[attr-defined]
    assert not hasattr(wrapper, "submit")
    assert inspect.signature(wrapper) == inspect.signature(forecast)


def test_what_wraps_sets_on_it_does_not_change_what_it_calls() -> None:
    def described(city: str) -> str:
        """Say the weather."""
        raise AssertionError

    async def called(city: str) -> str:
        return city

    function: Any = functools.wraps(described)(palitra.sync(called))

    assert function("Oslo") == "Oslo"
    assert function.submit("Oslo").result(PATIENCE) == "Oslo"
    assert function.__doc__ == "Say the weather."


@pytest.mark.parametrize("given", [functools.partial(forecast.__wrapped__, "Oslo"), Forecaster()])
def test_it_has_a_name_where_the_original_has_none(given: Any) -> None:
    function = palitra.sync(given)

    assert function.__name__ in {"forecast", "Forecaster"}
    assert function.__module__ == __name__
    assert function.__wrapped__ is given
    assert "partial(" not in (function.__doc__ or "")


# Binding


def test_submit_of_methods_knows_their_object_or_class() -> None:
    class Derived(Service):
        prefix = "derived"

        @palitra.sync
        async def forecast(self, city: str, days: int = 2) -> str:
            return f"more: {await asyncio.to_thread(super().forecast, city, days)}"

    derived = Derived()
    assert derived.forecast("Oslo") == "more: derived Oslo 2"
    assert derived.forecast.submit("Oslo").result(PATIENCE) == "more: derived Oslo 2"
    assert Derived.forecast.submit(derived, "Oslo").result(PATIENCE) == "more: derived Oslo 2"
    for of_class in (Derived, derived):
        assert of_class.outside("Oslo") == of_class.inside("Oslo") == "Derived Oslo"
        assert of_class.outside.submit("Oslo").result(PATIENCE) == "Derived Oslo"
        for static in (of_class.static_outside, of_class.static_inside):
            assert static("Oslo") == static.submit("Oslo").result(PATIENCE) == "Oslo"
    assert not hasattr(numbers, "submit")
    assert not hasattr(derived.numbers, "submit")
    assert derived.weather == "fair"
    assert Derived.weather.__doc__ == "The weather."


def test_methods_of_abstract_classes_and_dataclasses() -> None:
    class Base(abc.ABC):
        @palitra.sync
        @abc.abstractmethod
        async def below(self) -> int: ...

        @abc.abstractmethod
        @palitra.sync
        async def above(self) -> int: ...

    @dataclass
    class Point(Base):
        x: int = 3

        @palitra.sync
        async def below(self) -> int:
            return self.x

        above = below

    assert Base.__abstractmethods__ == {"below", "above"}
    assert Point().below() == Point(3).above() == 3


def test_a_function_attached_to_a_class_later_is_bound() -> None:
    class Plain: ...

    async def later(self: object) -> object:
        return self

    Plain.method = palitra.sync(later)  # type: ignore[attr-defined]
    plain: Any = Plain()

    assert plain.method() is plain.method.submit().result(PATIENCE) is plain
    bound: Any = types.MethodType(palitra.sync(later), plain)
    assert bound() is plain


class Shouting:
    """A decorator of methods that binds in its own way, and passes for what it has wrapped."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.wrapped)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return Shouting(self.wrapped.__get__(instance, owner))

    async def __call__(self, *args: Any) -> str:
        return str(await self.wrapped(*args)).upper()


def test_a_decorator_below_that_binds_in_its_own_way_is_kept() -> None:
    class Plain:
        @palitra.sync
        @Shouting
        async def method(self, city: str) -> str:
            return f"{type(self).__name__} {city}"

    plain = Plain()
    assert plain.method("Oslo") == "PLAIN OSLO"
    assert plain.method.submit("Oslo").result(PATIENCE) == "PLAIN OSLO"
    assert Plain.method(plain, "Oslo") == "PLAIN OSLO"
    bound: Any = plain.method
    assert bound.__self__ is plain
    assert palitra.sync(vars(Plain)["method"].__wrapped__.__get__(plain))("Oslo") == "PLAIN OSLO"


def test_its_names_are_listed_once() -> None:
    for names in (dir(forecast), dir(Service().forecast)):
        assert {"submit", "below", "__wrapped__", "__code__"} <= {*names}
        assert len(names) == len({*names})
    assert "submit" not in dir(numbers)
    assert "submit" not in dir(Service().numbers)


# Copies and references


def test_copies_are_the_function_itself() -> None:
    for fn in (forecast, numbers, Service.forecast, palitra.sync(Forecaster())):
        assert copy.copy(fn) is fn
        assert copy.deepcopy([fn])[0] is fn


def test_a_deep_copy_of_a_bound_method_has_an_object_of_its_own() -> None:
    service = Service()
    service.prefix = "copied"
    shallow, deep = copy.copy(service.forecast), copy.deepcopy(service.forecast)

    assert shallow == service.forecast
    assert deep.__self__ is not service  # type: ignore[attr-defined,unused-ignore]
    assert deep.submit("Oslo").result(PATIENCE) == "copied Oslo 1"


def test_submit_pickles_as_methods_do() -> None:
    service = Service()
    service.prefix = "pickled"

    assert pickle.loads(pickle.dumps(forecast.submit))("Oslo").result(PATIENCE) == "Oslo 1"
    submit = pickle.loads(pickle.dumps(service.forecast.submit))
    assert submit("Oslo").result(PATIENCE) == "pickled Oslo 1"


def test_methods_of_each_kind_pickle() -> None:
    service = Service()

    for method in (service.forecast, service.outside, Service.outside, Service.static_outside):
        assert pickle.loads(pickle.dumps(method))("Oslo") == method("Oslo")
    assert pickle.loads(pickle.dumps(Service.outside)) == Service.outside
    assert pickle.loads(pickle.dumps(Service.forecast)) is Service.forecast


def test_it_is_referred_to_weakly_as_functions_and_methods_are() -> None:
    service = Service()
    method: Any = weakref.WeakMethod(service.forecast)  # type: ignore[arg-type,unused-ignore]

    assert weakref.ref(forecast)() is forecast
    assert method()("Oslo") == "in Oslo 1"
    assert method().submit("Oslo").result(PATIENCE) == "in Oslo 1"
    del service
    gc.collect()
    assert method() is None


def test_it_ends_with_its_last_reference(executor: AsyncLoopExecutor) -> None:
    async def original() -> None: ...

    function = executor.sync(original)
    function()
    ended = weakref.ref(function)
    del function
    if not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled():
        assert ended() is None
    gc.collect()
    assert ended() is None


# unittest, doctest, pydoc, contextlib


def test_autospec_checks_the_arguments_of_functions_and_methods() -> None:
    of_function: Any = mock.create_autospec(forecast, return_value="mocked")
    assert of_function("Oslo", days=3) == "mocked"
    with pytest.raises(TypeError):
        of_function("Oslo", nights=1)

    of_class: Any = mock.create_autospec(Service)
    for instance in (of_class.return_value, mock.create_autospec(Service, instance=True)):
        instance.forecast.return_value = "mocked"
        assert instance.forecast("Oslo", days=3) == "mocked"
        instance.forecast.assert_called_once_with("Oslo", days=3)
        with pytest.raises(TypeError):
            instance.forecast("Oslo", nights=1)
        with pytest.raises(TypeError):
            instance.outside()


def test_it_is_patched_and_comes_back() -> None:
    service: Any = Service()
    with mock.patch(f"{__name__}.forecast", autospec=True) as patched:
        patched.return_value = "mocked"
        assert forecast("Oslo") == "mocked"
        assert not inspect.iscoroutinefunction(forecast)
    assert forecast("Oslo") == "Oslo 1"
    with mock.patch.object(Service, "forecast", autospec=True, return_value="mocked"):
        assert service.forecast("Oslo") == "mocked"
    assert service.forecast("Oslo") == "in Oslo 1"
    with mock.patch.object(forecast, "submit", return_value="mocked"):
        submit: Any = forecast.submit
        assert submit("Oslo") == "mocked"
    assert forecast.submit("Oslo").result(PATIENCE) == "Oslo 1"


def test_unittest_runs_methods_made_by_it() -> None:
    ran = []

    class Tests(unittest.TestCase):
        @palitra.sync
        async def test_passes(self) -> None:
            ran.append(asyncio.get_running_loop())

        @palitra.sync
        @unittest.expectedFailure
        async def test_fails_below(self) -> None:
            self.fail()

        @unittest.expectedFailure
        @palitra.sync
        async def test_fails_above(self) -> None:
            self.fail()

        @palitra.sync
        @unittest.skip("below")
        async def test_skipped_below(self) -> None:
            self.fail()

        @unittest.skip("above")
        @palitra.sync
        async def test_skipped_above(self) -> None:
            self.fail()

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)

    assert result.wasSuccessful(), result.errors + result.failures
    assert len(ran) == 1
    assert len(result.expectedFailures) == 2
    assert {reason for _, reason in result.skipped} == {"below", "above"}


def test_doctest_finds_its_examples() -> None:
    module = sys.modules[__name__]
    [found] = [
        test
        for test in doctest.DocTestFinder().find(module, "here")
        if test.name == "here.forecast"
    ]

    assert found.lineno is not None
    assert doctest.DocTestRunner().run(found) == (0, 1)


def test_help_shows_it_as_a_function_and_as_methods() -> None:
    text = pydoc.plain(pydoc.render_doc(forecast))
    assert "function forecast in module" in text
    assert "forecast(city: " in text
    assert "Look into the sky." in text
    assert "async" not in text
    of_class = pydoc.plain(pydoc.render_doc(Service))
    methods, _, others = of_class.partition("Class methods defined here")
    assert "Look into the sky of a service." in methods
    assert "Of the class, decorated outside." in others
    out = io.StringIO()
    pydoc.Helper(output=out)(Service().forecast)
    assert "method forecast" in out.getvalue()


def test_a_generator_function_serves_contextmanager() -> None:
    ended = []

    @contextmanager
    @palitra.sync
    async def opened() -> AsyncIterator[str]:
        try:
            yield "open"
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    with opened() as value:
        assert value == "open"
    assert ended == [True]
    assert isinstance(numbers(1), Generator)


# Names for people


def test_the_call_has_the_functions_name() -> None:
    names = []

    class Recording(AsyncLoopExecutor):
        def run(self, coro: Any, **kwargs: Any) -> Any:
            names.append(coro.__qualname__)
            return super().run(coro, **kwargs)

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            names.append(fn.__qualname__)
            return super().submit(fn, *args, **kwargs)

    def awaitable(city: str) -> Any:
        return forecast.__wrapped__(city)

    with Recording() as executor:
        executor.sync(forecast.__wrapped__)("Oslo")
        executor.sync(forecast.__wrapped__).submit("Oslo").result(PATIENCE)
        executor.sync(functools.partial(forecast.__wrapped__, "Oslo"))()
        executor.sync(awaitable)("Oslo")
        executor.sync(awaitable).submit("Oslo").result(PATIENCE)

    assert names[:3] == ["forecast"] * 3
    assert len(names) == 5
    assert all(name.endswith("<locals>.awaitable") for name in names[3:])


@pytest.mark.parametrize("fn", [forecast, Service().forecast, numbers])
def test_its_representation_tells_its_name(fn: Any) -> None:
    assert fn.__qualname__ in repr(fn)
    assert str(fn) == repr(fn)
    assert "synchronous" in repr(fn)


# pytest, which runs these as tests of its own


@palitra.sync
async def test_a_function_made_by_it_is_a_test_that_takes_fixtures(fixture_by_sync: str) -> None:
    assert fixture_by_sync == "value"
    assert asyncio.get_running_loop() is not None


@pytest.mark.parametrize("value", [1, 2])
@palitra.sync
@pytest.mark.usefixtures("fixture_by_sync")
async def test_its_marks_hold_from_above_and_below(
    value: int, request: pytest.FixtureRequest
) -> None:
    assert value in {1, 2}
    assert {"fixture_by_sync", "value"} <= {*request.fixturenames}


class TestMethods:
    @palitra.sync
    async def test_a_method_made_by_it_is_a_test(self, fixture_by_sync: str) -> None:
        assert isinstance(self, TestMethods)
        assert fixture_by_sync == "value"


@pytest.fixture
@palitra.sync
async def fixture_by_sync() -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    yield "value"
    assert asyncio.get_running_loop() is loop


async def documented(city: Any, days: Any = 1) -> str:
    return f"{city} {days}"


documented.__annotations__ = {"city": "the city to look up", "days": "int | 'str'"}


class Decorated:
    """A decorator that is a class."""

    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    async def __call__(self, *args: Any) -> str:
        result: str = await self.fn(*args)
        return result


class Documented:
    async def __call__(self, city: Any) -> str:
        return f"{city} 1"


Documented.__call__.__annotations__ = {"city": "the city to look up"}


@pytest.mark.parametrize(
    "fn",
    [
        documented,
        functools.partial(documented, days=1),
        Decorated(documented),
        Documented(),
    ],
    ids=["function", "partial", "class", "callable"],
)
def test_annotations_that_are_no_types_are_nobodys_business(fn: Any) -> None:
    assert AsyncLoopExecutor().sync(fn)("Oslo") == "Oslo 1"


def test_names_in_the_annotations_of_a_callable_may_come_later() -> None:
    namespace: dict[str, Any] = {}
    code = "class Forecast:\n    async def __call__(self, city: City) -> int:\n        return 7\n"
    if sys.version_info < (3, 14):
        code = "from __future__ import annotations\n" + code
    exec(code, namespace)
    with AsyncLoopExecutor() as executor:
        forecast = executor.sync(namespace["Forecast"]())
        assert forecast("Oslo") == 7
