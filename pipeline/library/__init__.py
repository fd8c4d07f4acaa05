"""What `import tagmask` offers to Python programs and notebooks: label photos, open published masks.

No cluster and no command line belongs here.
"""
