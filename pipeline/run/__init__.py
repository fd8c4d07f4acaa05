"""What a run is and what flows through it: configuration, identity, vocabulary, records, counts.

Reading, decoding and labelling do not belong here; no torch, no Ray.
"""
