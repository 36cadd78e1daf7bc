"""aiosqlite and SQLAlchemy's asyncio on a real SQLite file, asyncpg on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import aiosqlite
import asyncpg
import pytest
from postgresql import USER, postgresql
from sqlalchemy import ForeignKey, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from palitra import AsyncLoopExecutor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgresql() as host:
        yield host


# aiosqlite


def test_the_requests_of_aiosqlite_are_coroutines_enough_for_run(
    executor: AsyncLoopExecutor, tmp_path: Path
) -> None:
    file = tmp_path / "words.db"

    # The connection itself is awaitable and no coroutine: `gather` takes those.
    (database,) = executor.gather(aiosqlite.connect(file))
    executor.run(database.execute("create table words (word text)"))
    executor.run(database.executemany("insert into words values (?)", [("one",), ("two",)]))
    executor.run(database.commit())
    executor.run(database.close())

    with contextlib.closing(sqlite3.connect(file)) as check:
        assert check.execute("select word from words").fetchall() == [("one",), ("two",)]


def test_a_connection_of_aiosqlite_entered_once_serves_many_threads(tmp_path: Path) -> None:
    file = tmp_path / "numbers.db"

    with AsyncLoopExecutor() as executor, ThreadPoolExecutor(8) as threads:
        database = executor.enter_context(aiosqlite.connect(file))
        executor.run(database.execute("create table numbers (number integer primary key)"))

        @executor.sync
        async def insert(number: int) -> None:
            await database.execute("insert into numbers values (?)", (number,))
            await database.commit()

        list(threads.map(insert, range(100)))

    with contextlib.closing(sqlite3.connect(file)) as check:
        assert check.execute("select count(*), sum(number) from numbers").fetchall() == [
            (100, 4950)
        ]


def test_a_cursor_of_aiosqlite_is_read_row_by_row(
    executor: AsyncLoopExecutor, tmp_path: Path
) -> None:
    with executor.sync_context(aiosqlite.connect(tmp_path / "rows.db")) as database:
        executor.run(database.executescript("create table t (n); insert into t values (1), (2)"))
        with executor.sync_context(database.execute("select n from t")) as cursor:
            assert list(executor.sync_iter(cursor)) == [(1,), (2,)]


# SQLAlchemy


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    name: Mapped[str] = mapped_column(primary_key=True)
    books: Mapped[list[Book]] = relationship(order_by="Book.title")


class Book(Base):
    __tablename__ = "book"
    title: Mapped[str] = mapped_column(primary_key=True)
    author: Mapped[str] = mapped_column(ForeignKey("author.name"))


@contextlib.contextmanager
def engine_on(executor: AsyncLoopExecutor, url: str) -> Iterator[AsyncEngine]:
    engine = create_async_engine(url)
    try:
        with executor.sync_context(engine.begin()) as connection:
            executor.run(connection.run_sync(Base.metadata.create_all))
        yield engine
    finally:
        executor.run(engine.dispose())


@pytest.fixture
def sqlite_engine(executor: AsyncLoopExecutor, tmp_path: Path) -> Iterator[AsyncEngine]:
    with engine_on(executor, f"sqlite+aiosqlite:///{tmp_path}/books.db") as engine:
        yield engine


@pytest.fixture
def postgres_engine(executor: AsyncLoopExecutor, postgres: str) -> Iterator[AsyncEngine]:
    with engine_on(executor, f"postgresql+asyncpg://{USER}@/postgres?host={postgres}") as engine:
        yield engine
        with executor.sync_context(engine.begin()) as connection:
            executor.run(connection.run_sync(Base.metadata.drop_all))


@pytest.fixture(params=["sqlite_engine", "postgres_engine"])
def engine(request: pytest.FixtureRequest) -> AsyncEngine:
    engine: AsyncEngine = request.getfixturevalue(request.param)
    return engine


def test_a_session_of_sqlalchemy_works_step_by_step(
    executor: AsyncLoopExecutor, engine: AsyncEngine
) -> None:
    make_session = async_sessionmaker(engine)
    with executor.sync_context(make_session.begin) as session:
        session.add(Author(name="Ursula", books=[Book(title="Tehanu"), Book(title="Lavinia")]))

    with executor.sync_context(make_session) as session:
        author = executor.run(session.get_one(Author, "Ursula"))
        books = executor.run(author.awaitable_attrs.books)

    assert [book.title for book in books] == ["Lavinia", "Tehanu"]


def test_an_exception_rolls_the_transaction_back(
    executor: AsyncLoopExecutor, engine: AsyncEngine
) -> None:
    with executor.sync_context(AsyncSession(engine)) as session:
        session.add(Author(name="kept"))
        executor.run(session.commit())

    with (
        pytest.raises(IntegrityError),
        executor.sync_context(async_sessionmaker(engine).begin) as session,
    ):
        session.add(Author(name="lost"))
        session.add(Author(name="kept"))
        executor.run(session.flush())

    with executor.sync_context(engine.connect()) as connection:
        names = executor.run(connection.execute(select(Author.name))).scalars().all()
    assert names == ["kept"]


def test_a_streamed_result_is_read_row_by_row(
    executor: AsyncLoopExecutor, engine: AsyncEngine
) -> None:
    with executor.sync_context(engine.begin()) as connection:
        executor.run(
            connection.execute(
                Author.__table__.insert(), [{"name": f"author {n}"} for n in range(50)]
            )
        )

    with executor.sync_context(engine.connect()) as connection:
        (rows,) = executor.gather(connection.stream(select(Author.name)))
        names = [row.name for row in executor.sync_iter(rows)]

    assert sorted(names) == sorted(f"author {n}" for n in range(50))


def test_threads_share_one_engine(executor: AsyncLoopExecutor, engine: AsyncEngine) -> None:
    make_session = async_sessionmaker(engine)

    @executor.sync
    async def answer(number: int) -> int | None:
        async with make_session() as session:
            return await session.scalar(text("select cast(:number as integer)"), {"number": number})

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(answer, range(100))) == list(range(100))


# asyncpg


@pytest.fixture
def pool(executor: AsyncLoopExecutor, postgres: str) -> asyncpg.Pool:
    # What the tests before have left may take its time to go.
    executor.run(wait_for_no_backends(postgres))
    # Built by a callable, on the loop: a pool belongs to the loop that is running then.
    return executor.enter_context(
        lambda: asyncpg.create_pool(
            host=postgres, user=USER, database="postgres", min_size=1, max_size=4
        )
    )


@contextlib.asynccontextmanager
async def asker(postgres: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own, which `COUNT` leaves out."""
    connection = await asyncpg.connect(
        host=postgres, user=USER, database="postgres", server_settings={"application_name": "asker"}
    )
    try:
        yield connection
    finally:
        await connection.close()


# How many clients the server itself counts. One that asks may be there for a moment after it has
# closed its connection, like all others.
COUNT = """
    select count(*) from pg_stat_activity
    where backend_type = 'client backend' and application_name <> 'asker'
"""


def backends(executor: AsyncLoopExecutor, postgres: str) -> int:
    with executor.sync_context(asker(postgres)) as connection:
        return executor.run(connection.fetchval(COUNT))


def test_a_pool_of_asyncpg_entered_once_serves_many_threads(
    executor: AsyncLoopExecutor, pool: asyncpg.Pool, postgres: str
) -> None:
    @executor.sync
    async def ask(number: int) -> asyncpg.Record:
        return await pool.fetchrow("select $1::int as number, pg_backend_pid() as pid", number)

    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(ask, range(100)))

    assert [row["number"] for row in rows] == list(range(100))
    assert len({row["pid"] for row in rows}) <= 4
    assert backends(executor, postgres) <= 4


def test_the_server_sees_the_connections_go_at_shutdown(
    executor: AsyncLoopExecutor, postgres: str
) -> None:
    executor.run(wait_for_no_backends(postgres))
    with AsyncLoopExecutor() as owner:
        pool = owner.enter_context(
            lambda: asyncpg.create_pool(
                host=postgres, user=USER, database="postgres", min_size=2, max_size=2
            )
        )
        assert owner.run(pool.fetchval("select 1")) == 1
        assert backends(executor, postgres) == 2

    # The server takes the end of a connection in its own time, after it was told.
    assert executor.run(wait_for_no_backends(postgres)) == 0


async def wait_for_no_backends(postgres: str) -> int:
    async with asker(postgres) as connection:
        while others := await connection.fetchval(COUNT):
            await connection.fetchval("select pg_sleep(0.01)")
        return others


def test_a_transaction_is_left_by_commit_or_rollback(
    executor: AsyncLoopExecutor, pool: asyncpg.Pool
) -> None:
    class GiveUpError(Exception):
        pass

    with executor.sync_context(pool.acquire()) as connection:
        executor.run(connection.execute("create temporary table kept (word text)"))
        with executor.sync_context(connection.transaction()):
            executor.run(connection.execute("insert into kept values ('committed')"))
        with (
            pytest.raises(GiveUpError),
            executor.sync_context(connection.transaction()),
        ):
            executor.run(connection.execute("insert into kept values ('rolled back')"))
            raise GiveUpError

        rows = executor.run(connection.fetch("select word from kept"))

    assert [row["word"] for row in rows] == ["committed"]


def test_a_server_side_cursor_is_read_through_sync_iter(
    executor: AsyncLoopExecutor, pool: asyncpg.Pool
) -> None:
    with (
        executor.sync_context(pool.acquire()) as connection,
        executor.sync_context(connection.transaction()),
    ):
        rows = connection.cursor("select n from generate_series(1, 500) as n", prefetch=50)
        assert sum(row["n"] for row in executor.sync_iter(rows)) == sum(range(1, 501))


def test_a_timeout_cancels_the_query_on_the_server(
    executor: AsyncLoopExecutor, pool: asyncpg.Pool
) -> None:
    with executor.sync_context(pool.acquire()) as connection:
        with pytest.raises(TimeoutError):
            executor.run(connection.execute("select pg_sleep(60)"), timeout=0.05)
        assert executor.run(connection.fetchval("select 1")) == 1


def test_a_notification_from_the_server_arrives_between_calls(
    executor: AsyncLoopExecutor, pool: asyncpg.Pool
) -> None:
    arrived = threading.Event()

    def listener(*_: object) -> None:
        arrived.set()

    with executor.sync_context(pool.acquire()) as listening:
        executor.run(listening.add_listener("news", listener))
        executor.run(pool.execute("notify news"))
        assert arrived.wait(10)
        executor.run(listening.remove_listener("news", listener))
