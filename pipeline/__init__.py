"""Rows in, rows out: how tagged shards become masks.

`label.py` shows the way of the data on one screen; `remask.py` and `train.py` have the same shape. The folders from the
ground up, where a folder imports only from those above it:

    storage/          the one door to bytes: list, read, put atomically, wait for a store that is away
    run/              what a run is: configuration, identity, vocabulary, records, counts
    workers/          worker processes: how they report, hang, die and are tried again
    inputs/           archives -> chunks of samples; a new input format goes here
    images/           one image, arrays in and out: decode, views, class maps, masks, statistics; a new refinement of
                      maps goes here
    commit/           the commit protocol: plan, parts, seals, manifests
    labelling/        the worker side of labelling: a chunk in, a committed part out
    kept_maps/        the worker side of new masks from class maps that a run kept
    driver/           the driving process: waves, counts, silence, stops; it decides what to do next
    evaluation/       masks against true masks
    audit/            the independent audit of a run
    audit/parquet/    Parquet files byte by byte
    audit/archives/   the samples of an input as an outsider counts them
    thresholds/       thresholds of kept maps, with or without true masks
    reports/          pages and pictures; a new page goes here
    training/         what a training run is
    training/data/    shards -> training batches
    training/worker/  what each training worker runs
    training/driver/  the driving process of training: its folder, records, pages
"""
