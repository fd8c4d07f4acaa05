"""The driver process of a run: waves, counts, seals, silence, stops. No torch; it handles counts, not rows."""
