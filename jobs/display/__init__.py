"""Progress output of long jobs."""
