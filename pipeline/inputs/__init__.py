"""Archives in, chunks of samples out. No torch, no Ray: a new input format goes here."""
