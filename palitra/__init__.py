from palitra._default import get_executor, run, shutdown
from palitra._executor import AsyncLoopExecutor
from palitra._loop import DeadlockError
