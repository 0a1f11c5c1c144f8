"""What a card says of itself beside memory, heat and load: names and units, for agent, ledger and people alike.

What a card does not offer is absent, never 0. Sources: NVML's reference,
https://docs.nvidia.com/deploy/nvml-api/, and NVIDIA's list of XID errors, https://docs.nvidia.com/deploy/xid-errors/.
"""

from __future__ import annotations

#: Every name that a sample may carry, and what it means. Whole numbers, but for the ones of ``WORDS``.
FIELDS = {
    "slowdown_c": "°C at which the card slows itself down",
    "maximum_c": "°C up to which the card is meant to work",
    "shutdown_c": "°C at which the card switches itself off",
    "margin_c": "°C left until the card slows itself down",
    "memory_temperature_c": "°C of the card's memory",
    "fan_percent": "fan speed, 0 to 100 and above",
    "memory_utilization_percent": "share of time in which memory was read or written",
    "power_limit_mw": "milliwatts that the card may draw",
    "energy_mj": "millijoules since the driver was loaded",
    "clock_sm_mhz": "MHz of the processors",
    "clock_memory_mhz": "MHz of the memory",
    "clock_sm_max_mhz": "most MHz of the processors",
    "clock_memory_max_mhz": "most MHz of the memory",
    "clock_reasons": "why the clocks are not at their most, in words",
    "ecc": "1 if memory errors are corrected",
    "ecc_corrected": "memory errors corrected since the driver was loaded",
    "ecc_uncorrected": "memory errors not corrected since the driver was loaded",
    "ecc_corrected_total": "memory errors corrected in the card's life",
    "ecc_uncorrected_total": "memory errors not corrected in the card's life",
    "rows_corrected": "memory rows remapped after corrected errors",
    "rows_uncorrected": "memory rows remapped after uncorrected errors",
    "rows_pending": "1 if a remapping waits for a reset",
    "rows_failed": "1 if a remapping failed",
    "pcie_generation": "PCIe generation of the link now",
    "pcie_width": "PCIe lanes of the link now",
    "pcie_generation_max": "most PCIe generation that card and slot allow",
    "pcie_width_max": "most PCIe lanes that card and slot allow",
    "pcie_tx_bytes_s": "bytes a second to the host",
    "pcie_rx_bytes_s": "bytes a second from the host",
    "pcie_replays": "PCIe packets sent again",
    "nvlinks": "NVLinks that are up",
    "nvlink_errors": "errors on NVLinks, replays and recoveries together",
    "recovery": "what the driver asks for to make the card healthy: none, reset, reboot, drain",
    "driver": "version of the driver",
}
WORDS = frozenset({"clock_reasons", "recovery", "driver"})
