"""Public import path of the configuration; the class lives with what ships in a checkpoint."""

from modeling_pgn.configuration_pgn import PGNConfig

__all__ = ["PGNConfig"]
