"""Scores of published masks against true masks. Pages that show them belong to reports/, fitted thresholds to
thresholds/.
"""
