"""All checks of one machine, in the order in which a person reads them."""

from __future__ import annotations

from dure.doctor.checks import disks, exposure, memory, network, processor, services, software

__all__ = ["CHECKS"]

CHECKS = (
    *processor.CHECKS,
    *memory.CHECKS,
    *software.CHECKS,
    *disks.CHECKS,
    *network.CHECKS,
    *exposure.CHECKS,
    *services.CHECKS,
)
