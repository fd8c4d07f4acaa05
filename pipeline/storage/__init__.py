"""The only access to bytes: no other folder opens, lists, reads, writes or deletes a URI.

What the bytes mean does not belong here.
"""
