"""The driver of training: identity and folder of the run, Ray Train, records, page, bundle.

No tensor work; code of the workers is in `worker`.
"""
