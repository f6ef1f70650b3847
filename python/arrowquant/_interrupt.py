"""Ending Python code that runs in a thread of the core's: a generator that feeds a stream."""

from __future__ import annotations

import ctypes


def raise_in_thread(ident: int) -> None:
    """Raise KeyboardInterrupt in that thread as soon as it runs Python code again, if it does.

    A thread that were left behind in Python code would bring the interpreter down at its exit.
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt)
    )
