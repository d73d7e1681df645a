"""Starts lanes for processes.py: a process that has imported what takes 2 s, and forks for each line of its input.
Triton's own library is defined for the interpreter or for the compilers when it is imported, as TRITON_INTERPRET says.

A line is JSON: arguments of pytest, environment, file for the output. The answer, a line too, is pytest's exit code.
"""

from __future__ import annotations

import json
import os
import sys

import numpy  # noqa: F401 (for the lanes, as the others)
import pytest
import torch  # noqa: F401
import triton  # noqa: F401


def run(arguments: list[str], environment: dict[str, str], output: str) -> None:
    """In the child."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["pytest", *arguments]
    code = int(pytest.main(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
