"""Public import path of the processor; the class lives with what ships in a checkpoint."""

from modeling_pgn.processing_pgn import PGNProcessor

__all__ = ["PGNProcessor"]
