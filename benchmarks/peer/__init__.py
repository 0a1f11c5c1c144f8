"""The peers that ``benchmarks.peers`` runs beside gpubroker: a small module each, used as its own documentation says.

Here lives what a peer is and how it is driven; what is measured, and how it is told, is in ``benchmarks/peers.py``.
"""
