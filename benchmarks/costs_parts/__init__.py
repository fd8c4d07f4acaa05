"""Parts of `labelling_costs`: the code of a commit in a process of its own, and counts on a pretended device."""
