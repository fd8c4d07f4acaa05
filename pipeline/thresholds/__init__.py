"""Thresholds for kept class maps, with or without true masks."""
