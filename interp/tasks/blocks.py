"""Videos of flat 8-pixel blocks: pixels to block colours, block colours to symbols, and back.

Eight pixels are one latent pixel of the Wan VAE and two latent pixels one patch, so that a token is 2 x 2 blocks.
"""

from __future__ import annotations

import numpy as np

from interp.errors import TaskError

BLOCK = 8
NUM_FRAMES = 17
FREE, BLACK, GREY, RED, GREEN, BLUE, YELLOW = range(7)
COLOURS = ("white", "black", "grey", "red", "green", "blue", "yellow")
PALETTE = np.array(
    [[255, 255, 255], [0, 0, 0], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=np.uint8
)


def colour_scale(colours: np.ndarray) -> float:
    """Factor that takes colours to 0..255.

    Raises:
        TaskError: neither uint8, nor floating-point in 0..1 with some room for noise.
    """
    if colours.dtype == np.uint8:
        return 1.0
    if not np.issubdtype(colours.dtype, np.floating):
        raise TaskError(f"colours of dtype {colours.dtype} are not known; give uint8 in 0..255 or floats in 0..1")
    low, high = float(colours.min()), float(colours.max())
    if not (low > -0.75 and high < 1.75):
        raise TaskError(
            f"floating-point colours must lie in 0..1, got {low:.3g}..{high:.3g}; "
            "rescale them, (x + 1) / 2 from -1..1 or x / 255 from 0..255"
        )
    return 255.0


def blocks_from_pixels(video: np.ndarray, rows: int, cols: int, what: str) -> np.ndarray:
    """Mean colour of each block.

    Args:
        video: [frame, row, col, rgb], uint8 in 0..255 or float in 0..1.
        rows, cols: blocks of a frame.
        what: the problem, as in "a 5x5 maze", for messages.

    Returns:
        float32 [frame, block_row, block_col, rgb] in 0..255.

    Raises:
        TaskError: the frames are not rows x cols blocks of 8 pixels.
    """
    wanted = (rows * BLOCK, cols * BLOCK)
    if video.ndim != 4 or video.shape[1:] != (*wanted, 3):
        raise TaskError(f"{what} is scored on frames of [frame, {wanted[0]}, {wanted[1]}, 3] pixels, got {video.shape}")
    scale = colour_scale(video)
    blocks = video.astype(np.float32).reshape(len(video), rows, BLOCK, cols, BLOCK, 3).mean((2, 4))
    return blocks * scale


def block_colours(video: np.ndarray, rows: int, cols: int, what: str) -> np.ndarray:
    """Block colours of pixels or of block colours: float32 [frame, block_row, block_col, rgb] in 0..255."""
    if video.ndim == 4 and video.shape[1:] == (rows, cols, 3):
        return video.astype(np.float32) * colour_scale(video)
    return blocks_from_pixels(video, rows, cols, what)


def nearest(blocks: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Nearest colour of a palette: uint8 [..., block_row, block_col] from [..., rgb] in 0..255."""
    distance = ((blocks[..., None, :] - palette.astype(np.float32)) ** 2).sum(-1)
    return distance.argmin(-1).astype(np.uint8)


def to_pixels(colours: np.ndarray) -> np.ndarray:
    """Block colours to pixels: [..., row, col, rgb] from [..., block_row, block_col, rgb], each block 8 x 8."""
    return np.repeat(np.repeat(colours, BLOCK, axis=-3), BLOCK, axis=-2)


def evidence(frame: np.ndarray, endings: np.ndarray) -> np.ndarray:
    """How strongly a frame shows each of several possible endings.

    A block speaks for an ending if it looks there as in no other ending. Its evidence is how far its colour has moved
    from what the others show (their mean, if they differ) to what this one shows, as a share of the way, cut to 0..1;
    an ending's evidence is the mean over its blocks. A superposition of endings has evidence for each of them.

    Args:
        frame: [block_row, block_col, rgb] in 0..255.
        endings: colours of the same blocks in each ending, [ending, block_row, block_col, rgb] in 0..255.

    Returns:
        float64 [ending]; NaN for an ending without a block of its own.
    """
    endings = endings.astype(np.float64)
    found = np.full(len(endings), np.nan)
    for k, ending in enumerate(endings):
        others = np.delete(endings, k, axis=0)
        if not len(others):
            continue
        own = (others != ending).any(-1).all(0)
        if own.any():
            base = others.mean(0)[own]
            way = ending[own] - base
            moved = ((frame[own] - base) * way).sum(-1) / (way * way).sum(-1)
            found[k] = np.clip(moved, 0, 1).mean()
    return found
