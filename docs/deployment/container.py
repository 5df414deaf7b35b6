"""The first process of a container: starts Dagster, and at SIGINT or SIGTERM lets every training save before it ends.

Docker sends its signal to this process alone, and kills all others when it ends.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

EVERY_PROCESS = -1


def main(command: list[str]) -> int:
    """Run the command, then wait for all that it started. Returns its exit status, or 0 if a signal ended it."""
    if os.getpid() != 1:
        sys.exit("This is for the first process of a container, which alone may signal every other one.")
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        os.kill(EVERY_PROCESS, signal.SIGINT)

    # It says itself what is wrong.
    if failed := subprocess.run([sys.executable, "-m", "pipelines.instance"]).returncode:
        return failed
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    child = subprocess.Popen(command)
    status = 0
    while True:
        try:
            process, how = os.wait()
        except ChildProcessError:
            return 0 if stopped else status
        if process == child.pid:
            status = os.waitstatus_to_exitcode(how)
            if not stopped:
                stop(signal.SIGINT, None)
                stopped = False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
