"""The command ``srtrt``, also as ``python -m srtrt``."""

from __future__ import annotations

from srtrt import signals


def run() -> None:
    """Runs the command line; from the first moment, Ctrl-C is one line and exit status 130."""
    signals.take(signals.end_at_once)
    from srtrt.cli import main

    main()


if __name__ == "__main__":
    run()
