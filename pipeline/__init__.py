"""Rows in, rows out: how tagged shards become masks.

`label.py` shows the data flow on one screen; `remask.py` and `train.py` have the same shape. The folders from the
bottom up; a folder imports only from those above it:

    storage/          the only access to bytes: list, read, put atomically, wait out an outage
    run/              what a run is: configuration, identity, vocabulary, records, counts
    storage/bulk/     many small files: streams of listings, files of web servers
    workers/          worker processes: heartbeats, hangs, deaths, retries
    inputs/patterns/  what the patterns of --shards name: list files, folders, kinds of files
    inputs/tag_values/  what the values of tag fields and columns mean
    inputs/tables/    CSV, JSON lines and Parquet tables; columns in paths
    inputs/tags_table/  a table of tags beside the shards, sorted by key
    inputs/tar/       bytes, names, hard links and counts of the members of a tar
    inputs/           archives -> chunks of samples; a new input format goes here
    images/encoded/   one encoded image byte by byte: limits, parts that pixels need, names of what is no image
    images/           one image, arrays in and out: decode, frames, masks; a new refinement of maps goes here
    commit/           the commit protocol: plan, parts, seals, manifests
    published/        published runs as users read them: rows, filters, images by range
    images/drawing/   class maps on small grids -> masks and their statistics, on the CPU
    images/mapping/   images of one shape -> class maps, on the device
    collections/      folders of images, tables and COCO files -> index shards
    labelling/        the worker side of labelling: a chunk in, a committed part out
    kept_maps/        the worker side of new masks from kept class maps
    driver/           the driver process: waves, counts, silence, stops; decides what to do next
    progress/         how far a run is, for whoever watches it; nothing here draws or prints
    local_cluster/    child processes in place of Ray, for little work on one machine
    evaluation/       scores of masks against true masks
    audit/parquet/    Parquet files byte by byte
    audit/sources/    folders and tables of a collection, listed and read without the code of collections/
    audit/archives/   samples of an input, counted without the code of inputs/
    audit/            the independent audit of a run
    audit/collections/  the index of a collection against its source
    thresholds/       thresholds of kept maps, with or without true masks
    reports/          pages and pictures; a new page goes here
    corrections/      corrected masks of annotation tools, corrected tags of reviewers; read back by published/
    review/           the page of `tagmask review`: its server, and what it shows; a page to send goes to reports/
    export/           published masks as data sets of other tools
    library/          photos labelled and masks opened in Python programs, without Ray
    export/formats/   how a data set looks; a new export format goes here
    export/job/       the rows of an export, one task a shard, joint files at the end
    training/         what a training run is
    training/data/    shards -> training batches
    training/worker/  what each training worker runs
    training/driver/  the driver process of training: its folder, records, pages

Beside the folders: `errors.py` (exceptions), `printable.py` (foreign text made safe to print), `bundles.py` (model
bundles at any URI).
"""
