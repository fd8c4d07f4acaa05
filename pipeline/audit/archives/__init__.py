"""Samples of an input as the audit counts them. No code of inputs/ belongs here."""
