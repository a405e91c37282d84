"""Run a command within a budget of processor time: `python tests/budget.py 900 make bench`.

Prints what the command and all its children took, and fails if that is more than the budget. Processor time
is nearly the same on a busy machine as on a quiet one: this asserts nothing of who else works there.
"""

import resource
import subprocess
import sys
import time


def main(budget: float, command: list[str]) -> int:
    """The exit code: the command's own, or 1 if it took more than `budget` seconds of processor time."""
    begin = time.monotonic()
    code = subprocess.run(command).returncode
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = took.ru_utime + took.ru_stime
    wall = time.monotonic() - begin
    print(f"{wall:.0f} s, {seconds:.0f} s of processor time of a budget of {budget:g} s", flush=True)
    if seconds > budget:
        print("that is beyond the budget: the slowest tests are listed above")
    return code or int(seconds > budget)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
