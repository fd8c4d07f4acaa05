"""What a run is and what flows through it: configuration, identity, vocabulary, records, counts. No images, no Ray."""
