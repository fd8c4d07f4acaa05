"""Independent audit of a labelling run against its inputs. It shares the record format and storage with labelling, but
no code that produces the audited files.
"""
