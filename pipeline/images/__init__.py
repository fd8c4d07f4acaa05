"""Work on one image or one batch, arrays in and arrays out: decoding, views, class maps, masks, statistics. Storage,
Ray and runs belong elsewhere.
"""
