"""Starts the command line, so that Ctrl-C ends it at any moment, and without a traceback.

The commands are in `dure.cli.app`, whose import takes a while.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["CtrlC", "main"]

STOPPED = 130
AGAIN_S = 0.05


def main() -> None:
    """Run the command line. Before and after a command, Ctrl-C has nothing to tidy up."""
    is_heard = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ctrl_c = CtrlC()
    if is_heard:
        signal.signal(signal.SIGINT, _end)
    from dure.cli.app import run

    sys.unraisablehook = ctrl_c.repeat
    try:
        if is_heard:
            signal.signal(signal.SIGINT, ctrl_c.raise_it)
        run()
    except BaseException as error:
        if ctrl_c.came and not isinstance(error, SystemExit):
            sys.exit(STOPPED)
        raise
    finally:
        if is_heard:
            signal.signal(signal.SIGINT, _end)


class CtrlC:
    """Notes Ctrl-C, and sees to it that the command ends, whatever becomes of the KeyboardInterrupt.

    Python forgets one in a function that C code called, and libraries make other errors of it.
    """

    came = False

    def raise_it(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.came = True
        raise KeyboardInterrupt

    def repeat(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Handle what Python cannot raise: a KeyboardInterrupt comes again a moment later."""
        if unraisable.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(unraisable)
        else:
            threading.Timer(AGAIN_S, _interrupt_main).start()


def _interrupt_main() -> None:
    """Send the main thread the signal itself, which also ends what it waits for."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None, "it has begun"
    signal.pthread_kill(main_thread, signal.SIGINT)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
