"""Worker processes: how they report, hang, die and are tried again. Nothing of what they compute."""
