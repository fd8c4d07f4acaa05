"""The samples of an input as the audit counts them, without the readers of inputs/."""
