"""The jobs' side of Ray: where a job computes, how many workers it gets, how it stops."""
