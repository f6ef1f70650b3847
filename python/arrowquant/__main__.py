"""The command line: `arrowquant` or `python -m arrowquant`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from arrowquant._cli import app
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit(f"arrowquant's command line needs {error.name}: pip install typer rich")
    app()


if __name__ == "__main__":
    main()
