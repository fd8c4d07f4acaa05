"""Class maps on small grids -> pseudo labels and their statistics: the work on the CPU."""
