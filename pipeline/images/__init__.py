"""One image: arrays in, arrays out. No storage, no Ray: a new refinement of maps goes here."""
