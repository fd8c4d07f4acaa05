"""What people corrected: masks from files of annotation tools, and tags by the decisions of reviewers.

How corrected masks are read back belongs to published/.
"""
