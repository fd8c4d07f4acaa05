"""What a training run is: configuration, random seeds, events. Nothing that runs."""
