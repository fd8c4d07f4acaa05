"""The independent audit of a run: no code that labelling uses to make what is audited."""
