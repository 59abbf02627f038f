"""One parser for every script and command: dataclasses, filled from a YAML recipe and command-line overrides."""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from trl import TrlParser

_ROOT = Path(__file__).resolve().parent.parent
_OUR_FOLDERS = {
    _ROOT, *(path.parent for name in ("modeling_pgn", "pgn_vln") for path in (_ROOT / name).rglob("*.py"))
}  # fmt: skip


@contextmanager
def plain_errors() -> Iterator[None]:
    """End with one plain sentence and exit status 2 where our own code refused an input.

    Errors that a library raises keep their traceback. PGN_TRACEBACK=1 keeps it for all.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if os.environ.get("PGN_TRACEBACK") or raised_in.parent not in _OUR_FOLDERS:
            raise
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


def parse_arguments(dataclass_types: Sequence[type], argv: Sequence[str] | None = None, prog: str | None = None):
    """Dataclass instances from ``[RECIPE.yaml] [--field value …]``; the command line wins over the recipe.

    Raises:
        SystemExit: with one plain sentence on standard error, for a recipe that is missing, is not YAML or names
            unknown fields, and for values a dataclass refuses.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # Without abbreviations a misspelt field is refused instead of guessed.
    parser = TrlParser(list(dataclass_types), prog=prog, allow_abbrev=False)
    try:
        if argv and not argv[0].startswith("-"):
            recipe = argv.pop(0)
            if not Path(recipe).is_file():
                raise ValueError(f"the recipe {recipe!r} does not exist; give the path of a YAML file")
            argv = ["--config", recipe, *argv]
        return parser.parse_args_and_config(argv)
    except (ValueError, yaml.YAMLError) as error:
        parser.exit(2, f"error: {error}\n")
