"""How far a run is: pace, `progress.json`, and their reader for other machines. Nothing here draws or prints."""
