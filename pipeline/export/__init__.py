"""Published masks and their images as data sets that other tools read.

How a format looks belongs to `formats/`. What rows are and how images are found belongs to `published/`.
"""
