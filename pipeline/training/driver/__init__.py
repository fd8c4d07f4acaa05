"""The driver of training: identity and folder of the run, Ray Train, records, page, bundle.

No tensor work; what runs on the workers is in `worker`.
"""
