"""One peer in a process of its own, which does what it is told.

``python -m benchmarks.peer.child MODULE URL [ARG...]``: each line of its input is a method's name and arguments in
JSON, each line of its output the result, or the error. The module has ``opened(url, *arg)``, whose result has the
methods; ``close`` is called at the end, if there is one.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys


def main() -> None:
    """Serve until the input ends."""
    # What libraries print must not stand between two answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)
    module, url, *more = sys.argv[1:]
    served = importlib.import_module(f"benchmarks.peer.{module}" if "." not in module else module).opened(url, *more)
    print(json.dumps({"result": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        try:
            told = {"result": getattr(served, method)(*arguments)}
        except Exception as error:  # noqa: BLE001 - the driver says which peer failed, and of what
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), file=answers, flush=True)
    if hasattr(served, "close"):
        served.close()


if __name__ == "__main__":
    main()
