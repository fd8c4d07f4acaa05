"""Manifests against true masks. Figures only; pages are in reports/."""
