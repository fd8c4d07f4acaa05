"""The network and its files: tensors in, tensors out; bundles and documents as bytes.

No Ray, no storage, no configuration of runs, nothing of `pipeline`.
"""
