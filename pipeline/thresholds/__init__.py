"""Thresholds for kept class maps, found with or without true masks. Scores of given masks belong to evaluation/."""
