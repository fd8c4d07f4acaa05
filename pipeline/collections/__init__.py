"""Collections that are no shards: folders of images, tables with paths, COCO files; listed once into index shards.

Reading images does not belong here (`inputs/path_reader.py`); no torch, no Ray.
"""
