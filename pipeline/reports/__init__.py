"""Pages and pictures of published runs: a new page goes here."""
