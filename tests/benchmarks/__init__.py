"""What a crossing from synchronous code to a coroutine costs, here and elsewhere.

``python -m tests.benchmarks`` from the repository's root measures every row beside its peers;
``--help`` lists the rows and options. The peers come with ``pip install -e ".[bench]"``.
"""
