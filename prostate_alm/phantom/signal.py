"""What a scanner measures of tissue maps: spin echo, diffusion, noise, and the ADC that is fitted to it."""

import numpy as np

from prostate_alm.phantom.render import Array, TissueMaps


def spin_echo(maps: TissueMaps, *, echo_time_ms: float) -> Array:
    """T2-weighted spin echo with a repetition time well above T1.

    S = PD exp(-TE / T2)

    Args:
        maps: tissue maps.
        echo_time_ms: TE, > 0.

    Returns:
        The signal, the shape of the maps, within [0, 1].

    Reference:
        Bernstein, King, Zhou: Handbook of MRI Pulse Sequences, 2004, section 14.3.
    """
    return np.asarray(maps["proton_density"] * np.exp(np.float32(-echo_time_ms) / maps["t2_ms"]), dtype=np.float32)


def diffusion_signal(maps: TissueMaps, b_value_s_per_mm2: float, *, echo_time_ms: float) -> Array:
    """Fat-suppressed diffusion-weighted spin echo.

    S_b = PD water exp(-TE / T2) exp(-b ADC)

    Args:
        maps: tissue maps.
        b_value_s_per_mm2: b, >= 0.
        echo_time_ms: TE, > 0.

    Returns:
        The signal, the shape of the maps, within [0, 1].

    Reference:
        Stejskal and Tanner, J Chem Phys 42:288, 1965.
    """
    per_ms = np.float32(b_value_s_per_mm2 * 1e-3)  # b in ms/um2, since the ADC is in um2/ms
    exponent = np.float32(-echo_time_ms) / maps["t2_ms"] - per_ms * maps["adc_um2_per_ms"]
    return np.asarray(maps["water_density"] * np.exp(exponent), dtype=np.float32)


def add_rician_noise(signal: Array, sd: float, rng: np.random.Generator) -> Array:
    """Magnitude of a complex signal with normal noise in both channels.

    M = sqrt((S + n1)^2 + n2^2), n1 and n2 normal with standard deviation sd

    Args:
        signal: S, any shape, >= 0.
        sd: standard deviation of a channel, >= 0, in the unit of the signal.
        rng: source of randomness; advanced.

    Returns:
        M, the shape of `signal`.

    Reference:
        Gudbjartsson and Patz, Magn Reson Med 34:910, 1995.

    >>> add_rician_noise(np.full(2, 3.0, np.float32), 0.0, np.random.default_rng(0)).tolist()
    [3.0, 3.0]
    """
    real = signal + np.float32(sd) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sd) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.asarray(np.sqrt(real * real + imaginary * imaginary), dtype=np.float32)


def fit_adc(signals: list[Array], b_values_s_per_mm2: tuple[float, ...]) -> Array:
    """Apparent diffusion coefficient by the least-squares line through the logarithm of the signals.

    ADC = -sum (b - mean b) ln S_b / sum (b - mean b)^2

    Args:
        signals: one array for each b-value, the same shape, > 0 where it matters (others are floored).
        b_values_s_per_mm2: at least two different values.

    Returns:
        The ADC in mm2/s, the shape of a signal; negative values become 0.

    Reference:
        Stejskal and Tanner, J Chem Phys 42:288, 1965.

    >>> decay = [np.exp(np.float32([-b * 0.001])) for b in (0.0, 1000.0)]
    >>> fit_adc(decay, (0.0, 1000.0)).round(5).tolist()
    [0.0010000000474974513]
    """
    b = np.array(b_values_s_per_mm2)
    weights = ((b.mean() - b) / ((b - b.mean()) ** 2).sum()).astype(np.float32)
    floor = np.float32(1e-6)
    total = sum(w * np.log(np.maximum(s, floor)) for w, s in zip(weights, signals, strict=True))
    return np.asarray(np.maximum(total, 0.0), dtype=np.float32)
