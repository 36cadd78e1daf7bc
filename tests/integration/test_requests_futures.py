"""requests-futures: the session takes the executor and runs requests in its worker threads."""

from __future__ import annotations

from concurrent.futures import as_completed
from typing import TYPE_CHECKING

from requests_futures.sessions import FuturesSession

if TYPE_CHECKING:
    from counting_server import CountingServer

    from palitra import AsyncLoopExecutor


def test_a_futures_session_runs_its_requests_on_the_executor(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    with FuturesSession(executor=executor) as session:
        futures = [session.get(f"{server.url}/{number}") for number in range(20)]
        paths = {future.result().json()["path"] for future in as_completed(futures)}

    assert paths == {f"/{number}" for number in range(20)}
    assert server.requests == 20


def test_requests_and_coroutines_share_one_executor(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    async def word() -> str:
        return "from the loop"

    with FuturesSession(executor=executor) as session:
        request, call = session.get(server.url), executor.submit(word)
        assert {type(future.result()).__name__ for future in as_completed([request, call])} == {
            "Response",
            "str",
        }


def test_the_hooks_of_a_session_run_with_the_request(
    executor: AsyncLoopExecutor, server: CountingServer
) -> None:
    def parse(response: object, *args: object, **kwargs: object) -> None:
        response.path = response.json()["path"]  # type: ignore[attr-defined]

    with FuturesSession(executor=executor) as session:
        assert session.get(f"{server.url}/hook", hooks={"response": parse}).result().path == "/hook"
