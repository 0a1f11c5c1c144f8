"""Scores move the right way; enhancement is the same to the last bit however it is cut, batched or run."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from gpubroker_photos.files import Pixels
from gpubroker_photos.pipeline import HALO, EnhancePlan, Scores, enhance_batch, join, plan, score, tiles


def enhanced(pixels: Pixels, size: int, batch: int) -> Pixels:
    cut, how = tiles(pixels, size), plan(pixels)
    parts = [part for at in range(0, len(cut), batch) for part in enhance_batch(cut[at : at + batch], how)]
    return join(cut, parts)


def by_hand(pixels: Pixels) -> Pixels:
    """The enhancement again, in plain NumPy over the whole photo at once."""
    height, width = pixels.shape[:2]
    framed = np.pad(pixels, ((2, 2), (2, 2), (0, 0)), mode="reflect").astype(np.int64)
    shifted = {(y, x): framed[y : y + height, x : x + width] for y in range(5) for x in range(5)}
    taps = (1, 4, 6, 4, 1)
    blurred = (sum(taps[y] * taps[x] * part for (y, x), part in shifted.items()) + 128) // 256
    parts = np.stack(list(shifted.values()))
    contrast = (parts.max(axis=0) - parts.min(axis=0)).max(axis=2)
    weight = np.clip(160 + (contrast - 12) * -224 // 48, -64, 160)[..., np.newaxis]
    blended = np.clip(pixels + ((blurred - pixels) * weight + 128) // 256, 0, 255)
    tone = plan(pixels).tone
    return np.stack([tone[channel][blended[..., channel]] for channel in range(3)], axis=-1)


def test_a_blurred_photo_is_less_sharp(cat: Pixels) -> None:
    assert score(np.asarray(cv2.GaussianBlur(cat, (5, 5), 2), dtype=np.uint8)).sharpness < score(cat).sharpness / 2


def test_a_darker_photo_has_lower_exposure_and_more_clipped_shadows(cat: Pixels) -> None:
    dark, darker = score(cat // 2), score(np.clip(cat.astype(int) - 120, 0, 255).astype(np.uint8))
    assert darker.exposure < dark.exposure < score(cat).exposure
    assert darker.shadows > score(cat).shadows


def test_a_brighter_photo_has_more_clipped_highlights(cat: Pixels) -> None:
    brighter = score(np.clip(cat.astype(int) + 120, 0, 255).astype(np.uint8))
    assert brighter.exposure > score(cat).exposure
    assert brighter.highlights > score(cat).highlights + 0.1


def test_the_scores_of_plain_photos_are_known() -> None:
    white, black = np.full((10, 10, 3), 255, np.uint8), np.zeros((10, 10, 3), np.uint8)
    assert score(white) == Scores(sharpness=0.0, exposure=1.0, shadows=0.0, highlights=1.0)
    assert score(black) == Scores(sharpness=0.0, exposure=0.0, shadows=1.0, highlights=0.0)


def test_the_variance_of_the_laplacian_is_that_of_the_formula(cat: Pixels) -> None:
    luma = np.pad(cv2.cvtColor(cat, cv2.COLOR_RGB2GRAY), 1, mode="reflect").astype(float)
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    assert score(cat).sharpness == pytest.approx(np.var(around - 4 * luma[1:-1, 1:-1]))


@pytest.mark.parametrize("size", [1000, 128, 50, 7])
def test_cutting_into_tiles_leaves_no_seam(cat: Pixels, size: int) -> None:
    small = cat[:61, :90]
    assert np.array_equal(enhanced(small, size, batch=8), by_hand(small))


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_the_size_of_a_batch_changes_no_byte(cat: Pixels, batch: int) -> None:
    assert enhanced(cat, 64, batch).tobytes() == enhanced(cat, 64, batch=8).tobytes()


def test_a_tile_carries_its_halo(cat: Pixels) -> None:
    first, second = tiles(cat, 128)[:2]
    assert (second.x, second.y) == (128, 0)
    assert np.array_equal(second.pixels[HALO:-HALO, :HALO], cat[:128, 128 - HALO : 128])
    assert first.pixels.shape == (128 + 2 * HALO, 128 + 2 * HALO, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (5, 300)])
def test_the_smallest_photo_passes(shape: tuple[int, int]) -> None:
    assert enhanced(np.full((*shape, 3), 90, np.uint8), 128, 8).shape == (*shape, 3)


def test_noise_shrinks_where_a_photo_is_flat_and_edges_stay() -> None:
    dice = np.random.default_rng(1)
    clean = np.full((60, 120, 3), 60, np.int64)
    clean[:, 60:] = 200
    noisy = (clean + dice.integers(-4, 5, clean.shape)).astype(np.uint8)
    no_tone = EnhancePlan(tone=np.tile(np.arange(256, dtype=np.uint8), (3, 1)))
    (after,) = enhance_batch(tiles(noisy), no_tone)
    assert after[:, 5:50].std() < 0.7 * noisy[:, 5:50].std()
    assert after[:, 62].mean() - after[:, 57].mean() > 0.95 * (noisy[:, 62].mean() - noisy[:, 57].mean())


def test_white_balance_holds_the_strong_channel_back_and_lifts_the_weak_one(cat: Pixels) -> None:
    red, _, blue = plan((cat * np.array([1.0, 0.9, 0.7])).astype(np.uint8)).tone.astype(int)
    assert np.all(blue >= red)
    assert 5 < (blue - red).max() < 40


def test_a_grey_photo_stays_grey(cat: Pixels) -> None:
    after = enhanced(np.repeat(cat[..., :1], 3, axis=2), 128, 8)
    assert np.array_equal(after[..., 0], after[..., 2])


def test_tone_spreads_a_dull_photo_and_keeps_the_order_of_greys(cat: Pixels) -> None:
    dull = (cat // 2 + 50).astype(np.uint8)
    assert enhanced(dull, 128, 8).std() > dull.std()
    assert np.all(np.diff(plan(dull).tone.astype(int), axis=1) >= 0)


def test_a_tile_of_no_size_is_refused(cat: Pixels) -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        tiles(cat, 0)
