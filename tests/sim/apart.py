"""Measure in a copy of this process, so that what is here stays as it was.

A village of 10,000 takes a minute to grow and stabilise; crashed once, it is spent. A fork of it costs
next to nothing, and so one village serves every experiment of its seed. Only what the measure returns
comes back.
"""

from __future__ import annotations

import gc
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def apart(measure: Callable[[], Found]) -> Found:
    """What measure() returns, from a forked child; it must be picklable. RuntimeError if it raised."""
    gc.freeze()  # a collection in the child would touch, and so copy, every page
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on it warns where other tests left idle threads; the child needs none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        failed = True
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                try:
                    pickle.dump((measure(), ""), pipe)
                    failed = False
                except BaseException:
                    pickle.dump((None, traceback.format_exc()), pipe)
        finally:
            os._exit(failed)  # nothing of the parent's is cleaned up twice
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    gc.unfreeze()
    if not answer:
        raise RuntimeError(f"the process {child} that measured apart ended without an answer")
    found, trouble = pickle.loads(answer)
    if trouble:
        raise RuntimeError(f"measured apart, in process {child}:\n{trouble}")
    measured: Found = found
    return measured
