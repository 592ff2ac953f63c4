"""Proton density, T2 and diffusion of the tissues of the male pelvis at 3 T."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """What the signal depends on; `water_share` is what fat suppression leaves of the proton density in diffusion."""

    proton_density: float
    t2_ms: float
    adc_um2_per_ms: float
    water_share: float = 1.0

    @property
    def water_density(self) -> float:
        """Proton density that fat suppression leaves."""
        return self.proton_density * self.water_share


# Round figures within the ranges reported at 3 T; docs/phantom.md holds the table of sources.
TISSUES = {
    "air": Tissue(0.0, 100.0, 0.0),
    "fat": Tissue(0.85, 115.0, 0.15, 0.03),
    "marrow": Tissue(0.60, 85.0, 0.30, 0.06),
    "cortical bone": Tissue(0.08, 20.0, 0.50),
    "muscle": Tissue(0.75, 38.0, 1.40),
    "venous plexus": Tissue(0.80, 130.0, 1.90),
    "vessel": Tissue(0.50, 30.0, 1.50),
    "bladder wall": Tissue(0.80, 50.0, 1.50),
    "urine": Tissue(1.00, 600.0, 3.00),
    "seminal vesicle": Tissue(0.90, 190.0, 2.00),
    "rectal wall": Tissue(0.80, 62.0, 1.45),
    "stool": Tissue(0.55, 45.0, 1.20),
    "capsule": Tissue(0.75, 45.0, 1.40),
    "peripheral zone": Tissue(0.90, 130.0, 1.70),
    "transition zone": Tissue(0.86, 90.0, 1.45),
    "pseudo-capsule": Tissue(0.80, 55.0, 1.40),
    "fibromuscular stroma": Tissue(0.78, 50.0, 1.35),
    "glandular nodule": Tissue(0.90, 135.0, 1.75),
    "stromal nodule": Tissue(0.82, 68.0, 1.30),
    "urethra": Tissue(0.90, 150.0, 1.80),
    "prostatitis": Tissue(0.88, 88.0, 1.52),
    "lesion": Tissue(0.90, 92.0, 0.55),
}
