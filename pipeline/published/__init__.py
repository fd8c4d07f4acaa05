"""Published runs as their users see them: rows, filters over rows, and the images of rows from the input shards.

What masks are made of does not belong here, nor what is made of them.
"""
