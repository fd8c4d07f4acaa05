"""Encoded images byte by byte, before a decoder sees them: limits on their structure, the parts that pixels need, names
of what is no image. No pixels here.
"""
