"""How the agent moves: steps of a fixed length, turns of a fixed angle, and what happens at an obstacle."""

import numpy as np

from pgn_vln.navigation.geodesic import OccupancyGrid


def move_forward(
    grid: OccupancyGrid, positions: np.ndarray, headings: np.ndarray, step_m: float, sliding: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Walk one step from each pose.

    The step is walked in pieces no longer than a grid cell. With `sliding`, a piece that would enter an obstacle keeps
    its component along x or along y, whichever is free (walls and furniture are axis-aligned); without, the step ends
    there.

    Args:
        grid: Where the agent fits.
        positions: Free points ``[B, 2]``, metres.
        headings: Degrees ``[B]``, counter-clockwise from +x.
        step_m: Length of a step.
        sliding: Whether the agent slides along obstacles.

    Returns:
        New positions ``[B, 2]``, and ``[B]`` flags of who collided: whose move was shortened or deflected.
    """
    pieces = max(1, int(np.ceil(step_m / grid.resolution_m - 1e-9)))
    radians = np.radians(headings)
    # Rounded, because the last bit of a cosine differs between processors and would decide at the edge of a cell.
    delta = np.round(np.stack([np.cos(radians), np.sin(radians)], axis=-1), 12) * (step_m / pieces)
    along_x, along_y = delta * (1.0, 0.0), delta * (0.0, 1.0)
    # Along the longer component first, or an agent that grazes a wall would slide away sideways.
    x_is_longer = np.abs(delta[:, :1]) >= np.abs(delta[:, 1:])
    first, second = np.where(x_is_longer, along_x, along_y), np.where(x_is_longer, along_y, along_x)
    collided = np.zeros(len(positions), dtype=bool)
    for _ in range(pieces):
        target = positions + delta
        free = grid.is_free(target)
        # Without sliding, whoever has hit something stays there for the rest of the step.
        collided |= ~free
        if sliding and not free.all():
            for component in (first, second):
                slid = positions + component
                usable = ~free & grid.is_free(slid)
                target = np.where(usable[:, None], slid, target)
                free = free | usable
        moves = free if sliding else ~collided
        positions = np.where(moves[:, None], target, positions)
    return positions, collided
