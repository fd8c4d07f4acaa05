"""The worker side of labelling: a chunk in, a committed part out. Work on one image belongs to images/."""
