"""Small image operations in numpy that several degradations share."""

import numpy as np
import scipy.fft


def ramp(severity: float, at_one: float, at_five: float, at_zero: float = 0.0) -> float:
    """Interpolate a strength between its values at severity 0, 1 and 5, linearly."""
    return float(np.interp(severity, (0, 1, 5), (at_zero, at_one, at_five)))


def geometric_ramp(severity: float, at_one: float, at_five: float, at_zero: float = 1.0) -> float:
    """Interpolate a strength between its values at severity 0, 1 and 5, in the logarithm."""
    return float(np.exp(np.interp(severity, (0, 1, 5), np.log((at_zero, at_one, at_five)))))


def luma(image: np.ndarray) -> np.ndarray:
    """Return the luma of an RGB image [..., 3] (weights of ITU-R BT.601)."""
    return image @ np.array((0.299, 0.587, 0.114), np.float32)


def srgb_to_linear(image: np.ndarray) -> np.ndarray:
    """Decode sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    # A clipped power plus a clipped line, in place: twice as fast as choosing with `np.where`.
    image = np.asarray(image, np.float32)
    light = np.maximum(image, np.float32(0.04045))
    light += np.float32(0.055)
    light *= np.float32(1 / 1.055)
    light **= np.float32(2.4)
    line = np.minimum(image, np.float32(0.04045))
    line -= np.float32(0.04045)
    line *= np.float32(1 / 12.92)
    light += line
    return light


def linear_to_srgb(light: np.ndarray) -> np.ndarray:
    """Encode linear light in [0, 1] as sRGB, the inverse of `srgb_to_linear`; never below 0."""
    light = np.asarray(light, np.float32)
    image = np.maximum(light, np.float32(0.0031308))
    image **= np.float32(1 / 2.4)
    image *= np.float32(1.055)
    image -= np.float32(0.055)
    line = np.minimum(light, np.float32(0.0031308))
    line -= np.float32(0.0031308)
    line *= np.float32(12.92)
    image += line
    return np.maximum(image, np.float32(0))


def centred_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, columns) counted from the centre of a kernel of odd size, float32."""
    offsets = np.arange(size, dtype=np.float32) - size // 2
    return offsets[:, None], offsets[None, :]


def gaussian_kernel(sigma_x: float, sigma_y: float, angle: float = 0.0) -> np.ndarray:
    """Return a 2-D Gaussian that sums to one, cut at three standard deviations.

    Args:
      sigma_x, sigma_y: standard deviations along its axes in pixels, above 0.
      angle: of its first axis from the horizontal, in degrees.

    Returns:
      float32 [K, K] with K odd.
    """
    rows, columns = centred_grid(2 * max(1, int(np.ceil(3 * max(sigma_x, sigma_y)))) + 1)
    cos, sin = np.float32(np.cos(np.radians(angle))), np.float32(np.sin(np.radians(angle)))
    along, across = cos * columns + sin * rows, cos * rows - sin * columns
    kernel = np.exp(
        np.float32(-0.5 / sigma_x**2) * along**2 + np.float32(-0.5 / sigma_y**2) * across**2
    )
    return kernel / kernel.sum()


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve the first two axes with a kernel by FFT; borders are mirrored.

    Args:
      image: float32 [H, W] or [H, W, C].
      kernel: float32 [K, L], both odd, or [K, L, C] for one kernel per channel.

    Returns:
      float32 of the shape of `image`.
    """
    height, width = image.shape[:2]
    above, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    # The padding reaches to the next fast length; what wraps around stays out of the frame.
    rows = scipy.fft.next_fast_len(height + 2 * above, real=True) if above else height
    columns = scipy.fft.next_fast_len(width + 2 * left, real=True)
    planes = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]
    kernels = np.moveaxis(kernel, -1, 0) if kernel.ndim == 3 else kernel[None]
    widths = ((0, 0), (above, rows - height - above), (left, columns - width - left))
    # Axis by axis, so that the rows of zeros below the kernel and those that will be cut off
    # are not transformed; a kernel of one row needs no transform of the columns at all.
    spectrum = scipy.fft.rfft(np.pad(planes, widths, mode="symmetric"), axis=2)
    factor = scipy.fft.rfft(kernels, n=columns, axis=2)
    if above:
        spectrum = scipy.fft.fft(spectrum, axis=1, overwrite_x=True)
        spectrum *= scipy.fft.fft(factor, n=rows, axis=1)
        spectrum = scipy.fft.ifft(spectrum, axis=1, overwrite_x=True)
        spectrum = spectrum[:, 2 * above : 2 * above + height]
    else:
        spectrum *= factor
    out = scipy.fft.irfft(spectrum, n=columns, axis=2, overwrite_x=True)
    out = out[:, :, 2 * left : 2 * left + width]
    return np.ascontiguousarray(np.moveaxis(out, 0, -1)) if image.ndim == 3 else out[0]


def smooth_field(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Draw a smooth random field in [0, 1]: random values on a coarse grid, interpolated.

    Args:
      rng: source of randomness.
      height, width: size of the field in pixels.
      cells: grid cells along each side, at least 1.

    Returns:
      float32 [height, width].
    """
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    rows = np.linspace(0, cells, height, dtype=np.float32)
    columns = np.linspace(0, cells, width, dtype=np.float32)
    return _interpolate(_interpolate(grid, rows, smooth=True).T, columns, smooth=True).T


def enlarge(field: np.ndarray, height: int, width: int, factor: int) -> np.ndarray:
    """Undo `shrink` for a field, bilinearly.

    Args:
      field: float32 [ceil(height / factor), ceil(width / factor)].
      height, width: of the result.
      factor: side of a block in pixels.

    Returns:
      float32 [height, width].
    """
    for size in (height, width):
        centres = (np.arange(size, dtype=np.float32) - np.float32((factor - 1) / 2)) / factor
        positions = np.clip(centres, 0, len(field) - 1).astype(np.float32)
        field = _interpolate(field, positions, smooth=False).T
    return field


def _interpolate(grid: np.ndarray, positions: np.ndarray, *, smooth: bool) -> np.ndarray:
    """Interpolate the rows of `grid` at fractional positions, linearly or with level joints."""
    low = np.minimum(positions.astype(np.intp), max(len(grid) - 2, 0))
    weight = positions - low.astype(np.float32)
    if smooth:
        weight = weight * weight * (3 - 2 * weight)
    weight = weight[:, None]
    return grid[low] * (1 - weight) + grid[np.minimum(low + 1, len(grid) - 1)] * weight


def fractal_field(
    rng: np.random.Generator,
    height: int,
    width: int,
    slope: float,
    *,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> np.ndarray:
    """Draw a random field with a power-law spectrum, as clouds and smoke have.

    Spectral synthesis (Peitgen & Saupe, "The Science of Fractal Images", 1988): white noise whose
    amplitude falls with frequency f as f^-slope.

    Args:
      rng: source of randomness.
      height, width: size of the field in pixels.
      slope: about 1 for ragged fields, 2 for smooth ones.
      stretch: how much longer structures are than wide, 1 for none.
      angle: of the long side from the horizontal, in degrees.

    Returns:
      float32 [height, width] of mean 0 and standard deviation 1 (all 0 where there is one pixel).
    """
    # The synthesis is periodic; a margin keeps opposite borders from matching.
    rows = scipy.fft.next_fast_len(height + height // 4 + 1, real=True)
    columns = scipy.fft.next_fast_len(width + width // 4 + 1, real=True)
    f_rows = scipy.fft.fftfreq(rows).astype(np.float32)[:, None]
    f_columns = scipy.fft.rfftfreq(columns).astype(np.float32)[None, :]
    cos, sin = np.float32(np.cos(np.radians(angle))), np.float32(np.sin(np.radians(angle)))
    along = (cos * f_columns + sin * f_rows) * np.float32(stretch)
    across = cos * f_rows - sin * f_columns
    # Structures wider than the frame would be mere gradients; they are levelled off.
    floor = np.float32(0.5 / max(height, width)) ** 2
    amplitude = (along**2 + across**2 + floor) ** np.float32(-slope / 2)
    # Uniform numbers will do: the sum of so many waves is normal all the same.
    noise = rng.random((*amplitude.shape, 2), dtype=np.float32) - np.float32(0.5)
    spectrum = noise.view(np.complex64)[..., 0] * amplitude
    field = scipy.fft.irfft2(spectrum, s=(rows, columns))[:height, :width]
    field = field - field.mean()
    return field / np.float32(max(float(field.std()), 1e-6))


def smoothstep(values: np.ndarray) -> np.ndarray:
    """Rise smoothly from 0 at 0 to 1 at 1, flat outside."""
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of `factor` x `factor` pixels; a border that does not fit is repeated.

    Args:
      image: float32 [H, W, C].
      factor: side of a block in pixels.

    Returns:
      float32 [ceil(H / factor), ceil(W / factor), C].
    """
    height, width, channels = image.shape
    if height % factor or width % factor:
        image = np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    # Adding strided views is several times faster than the mean of a reshaped array.
    total = sum(image[row::factor] for row in range(factor))
    return sum(total[:, column::factor] for column in range(factor)) / np.float32(factor**2)


def remap(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Look an image up at fractional positions, bilinearly; beyond the border it is repeated.

    Args:
      image: float32 [H, W, C].
      rows, columns: positions in pixels, float32 [...].

    Returns:
      float32 [..., C].
    """
    height, width = image.shape[:2]
    rows = np.clip(rows, 0, height - 1)
    columns = np.clip(columns, 0, width - 1)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = (rows - top)[..., None], (columns - left)[..., None]
    down, across = down.astype(np.float32), across.astype(np.float32)
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[below, left] * (1 - across) + image[below, right] * across
    return upper * (1 - down) + lower * down


def splat(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Add values at whole positions to an empty canvas; zeros and what lies outside are skipped.

    Args:
      rows, columns: positions, integers [...].
      values: float32 [...].
      height, width: of the canvas.

    Returns:
      float32 [height, width].
    """
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width) & (values != 0)
    index = rows[inside] * width + columns[inside]
    canvas = np.bincount(index, weights=values[inside], minlength=height * width)
    return canvas.astype(np.float32).reshape(height, width)
