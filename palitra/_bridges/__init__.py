"""Synchronous faces of async functions, iterables and context managers."""
