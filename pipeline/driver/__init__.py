"""The driving process of a run: waves, counts, seals, silence, stops. No torch, no row kept."""
